"""`lengthen prepare`: turn text, or token ids of other tools, into a token store."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named
from lengthen.util.errors import SettingError


def _arguments(parser: Parser) -> None:
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="file, folder, glob or -")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the new store")
    parser.add_argument(
        "--tokenizer",
        default="train:8192",
        help="train:N, a tokenizer.json, a folder, gpt2, gpt2:FOLDER or bytes (train:8192)",
    )
    parser.add_argument(
        "--separator", metavar="TOKEN", help="token between documents (the tokenizer's end of text)"
    )
    parser.add_argument(
        "--valid", type=share, help="share of the text for validation (0.01, or 1%%)"
    )
    parser.add_argument(
        "--valid-files",
        "--valid-from",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files for validation, instead of a share",
    )
    parser.add_argument(
        "--field", default="text", help="name of the text in JSON and tables (text)"
    )
    parser.add_argument(
        "--stdin-format",
        choices=("txt", "jsonl"),
        default="txt",
        help="format of standard input (txt)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of tokenizer sample and validation part (0)"
    )
    parser.add_argument(
        "--on-bad", choices=("stop", "skip"), default="stop", help="at unreadable documents (stop)"
    )
    parser.add_argument("--workers", type=int, help="encoding threads (all cores)")
    parser.add_argument(
        "--in-place", action="store_true", help="use files of token ids without a copy"
    )
    parser.add_argument("--part", metavar="I/N", help="write only part I of N of the store")
    parser.add_argument(
        "--join", type=Path, metavar="DIR", help="join the parts in DIR to the store"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier store")


def share(text: str) -> float:
    """Return a share that is written as a fraction or in per cent."""
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.data.join import join
    from lengthen.data.prepare import prepare

    asked = named(options)
    try:
        if folder := asked.pop("join"):
            _must_be_left_out(options)
            join(folder, overwrite=options.overwrite).print()
            return 0
        if options.out is None:
            raise SettingError("out", "is missing; it names the store")
        prepare(**asked).print()
    except SettingError as error:
        if error.setting not in vars(options):
            raise
        option = f"--{error.setting.replace('_', '-')}"
        raise SettingError(option, error.rule, error.value, error.hint) from None
    return 0


def _must_be_left_out(options: argparse.Namespace) -> None:
    parser = Parser()
    _arguments(parser)
    for name, default in vars(parser.parse_args([])).items():
        value = getattr(options, name)
        if name not in ("join", "overwrite") and value != default:
            rule = "must be left out: the store is made of the parts as they are, in their folder"
            shown = " ".join(value) if isinstance(value, list) else str(value)
            raise SettingError("SOURCE" if name == "sources" else name, rule, shown)


COMMAND = Command(
    "Turn text, or token ids of other tools, into a token store.",
    """
  lengthen prepare books/ --out store
  lengthen prepare 'data/*.jsonl.zst' --field content --tokenizer train:32768 --out store
  lengthen prepare train.txt --valid-files valid.txt --tokenizer gpt2 --out store
  lengthen prepare corpus/ --tokenizer tokenizer.json --part $SLURM_ARRAY_TASK_ID/8 --out store
  lengthen prepare --join store
  lengthen prepare data/openwebtext --tokenizer gpt2 --in-place --out store
  lengthen prepare corpus.bin --valid-from held_out.bin --tokenizer folder --out store
  lengthen prepare saved --field input_ids --tokenizer gpt2 --out store
  zcat dump.gz | lengthen prepare - --stdin-format jsonl --out store
""",
    _arguments,
    _run,
)

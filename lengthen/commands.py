"""What each subcommand is called with, and what it calls.

Nothing heavy is imported before a command needs it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lengthen.config import Tables
from lengthen.errors import SettingError, nearest
from lengthen.recipes import RECIPES
from lengthen.settings import load


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        """Raise SettingError."""
        raise SettingError(self.prog.removeprefix("lengthen "), message)

    def refuse(self, word: str) -> NoReturn:
        """Raise SettingError for a word that this command does not know."""
        if not word.startswith("-"):
            raise SettingError(self.prog.removeprefix("lengthen "), "takes no such argument", word)
        raise SettingError(word, "no such option", None, nearest(word, self._option_string_actions))


@dataclass(frozen=True)
class Command:
    """A subcommand: its help, its arguments and what it does."""

    summary: str
    examples: str
    arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, Tables], int]
    takes_settings: bool = False


def _demo_arguments(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where it goes (demo)")
    parser.add_argument("--text", type=Path, help="your own text instead of the Python library")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo")


def _demo(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.demo import demo

    demo(options.out, text=options.text, overwrite=options.overwrite)
    return 0


def _prepare_arguments(parser: Parser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, glob or -")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the store")
    parser.add_argument(
        "--tokenizer",
        default="train:8192",
        help="train:N, a tokenizer.json, gpt2, gpt2:FOLDER or bytes (train:8192)",
    )
    parser.add_argument("--valid", type=float, default=0.01, help="validation share (0.01)")
    parser.add_argument(
        "--valid-files", nargs="+", default=[], metavar="FILE", help="validation text instead"
    )
    parser.add_argument("--field", default="text", help="the text's name in JSON, tables (text)")
    parser.add_argument(
        "--stdin-format", choices=("txt", "jsonl"), default="txt", help="what - carries (txt)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of sample and validation part (0)")
    parser.add_argument(
        "--on-bad", choices=("stop", "skip"), default="stop", help="unreadable documents (stop)"
    )
    parser.add_argument("--workers", type=int, help="cores (all)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier store")


def _prepare(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.corpus.prepare import prepare

    named = {name: value for name, value in vars(options).items() if name != "command"}
    try:
        print(prepare(named.pop("sources"), named.pop("out"), **named))
    except SettingError as error:
        if error.setting not in vars(options):
            raise
        option = f"--{error.setting.replace('_', '-')}"
        raise SettingError(option, error.rule, error.value, error.hint) from None
    return 0


def _train_arguments(parser: Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE|FILE.toml", help=", ".join(RECIPES))
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="where it goes")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    parser.add_argument(
        "--resume", choices=("auto",), help="go on with the same run if it is there, for launchers"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line")


def _train(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.runs import train

    config, notes = load(options.recipe, _with_data(overrides, options.data))
    _print_notes(notes)
    summary = train(
        config,
        options.out,
        overwrite=options.overwrite,
        resume_auto=options.resume == "auto",
        shown=not options.quiet,
    )
    return _print_summary(options.out, summary)


def _with_data(overrides: Tables, path: str | None) -> Tables:
    if path is None:
        return overrides
    # The file may name the store of an earlier run: another one is meant, whatever its id.
    store = {"path": str(Path(path).resolve()), "store_id": None}
    return {**overrides, "data": {**overrides.get("data", {}), **store}}


def _resume_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--checkpoint", metavar="step-N", help="this one, not the newest good one")
    parser.add_argument("--quiet", action="store_true", help="no progress line")


def _resume(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.runs import resume

    shown = not options.quiet
    summary = resume(options.run, overrides=overrides, name=options.checkpoint, shown=shown)
    return _print_summary(options.run, summary)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"lengthen: {note}", file=sys.stderr)


def _print_summary(run: Path, summary: dict[str, object]) -> int:
    from lengthen.runlog import RunPaths, read_metrics

    if os.environ.get("RANK", "0") != "0":
        return 0
    evaluations = read_metrics(RunPaths(run).metrics).of("eval")
    lines = [(name.replace("_", " "), _figure(value)) for name, value in summary.items()]
    if evaluations:
        loss = evaluations[-1]["loss"]
        lines.append(("validation loss", "not finite" if loss is None else f"{loss:.4f}"))
    return _print_lines(lines)


def _figure(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _print_lines(lines: Sequence[tuple[str, str]]) -> int:
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"{name:<{width}}  {text}")
    return 0


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE|FILE.toml", help=", ".join(RECIPES))
    parser.add_argument("--data", metavar="DIR", help="a token store, for passes and leftovers")
    parser.add_argument("--flops", help="FLOP/s that a step reaches, such as 100T")


def _plan(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.plan import lines_for

    config, notes = load(options.recipe, _with_data(overrides, options.data))
    _print_notes(notes)
    return _print_lines(lines_for(config, options.flops))


def _compare_arguments(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="variants, grid and seeds")
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument("--jobs", type=int, help="runs side by side (one a GPU, else one a core)")
    parser.add_argument("--threads", type=int, help="of each run (the cores, shared out)")
    parser.add_argument("--look", action="store_true", help="train nothing: tables so far")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _compare(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.compare.compare import compare

    compare(
        options.file,
        options.out,
        overrides=_with_data(overrides, options.data),
        jobs=options.jobs,
        threads=options.threads,
        look=options.look,
        shown=not options.quiet,
    )
    return 0


def _sample_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--prompt", default="", help="text to go on from")
    parser.add_argument("--tokens", type=int, default=200, help="at most so many (200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is the likeliest (0.8)")
    parser.add_argument("--top-k", type=int, default=50, help="choose among so many; 0: all (50)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same text (0)")


def _sample(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.sample import sample

    pieces = sample(
        options.run,
        prompt=options.prompt,
        tokens=options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        seed=options.seed,
    )
    print(options.prompt, end="")
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def _verify_arguments(parser: Parser) -> None:
    parser.add_argument("path", type=Path, metavar="DIR", help="a token store, run or checkpoint")


def _verify(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.verify import verify

    for text in verify(options.path):
        print(text)
    return 0


COMMANDS = {
    "demo": Command(
        "Train a small GPT three ways and compare them, in about two minutes.",
        """
  lengthen demo
  lengthen demo --text my-novel.txt --out my-demo
""",
        _demo_arguments,
        _demo,
    ),
    "prepare": Command(
        "Turn text into a token store.",
        """
  lengthen prepare books/ --out store
  lengthen prepare 'data/*.jsonl.zst' --field content --tokenizer train:32768 --out store
  lengthen prepare train.txt --valid-files valid.txt --tokenizer gpt2 --out store
  zcat dump.gz | lengthen prepare - --stdin-format jsonl --out store
""",
        _prepare_arguments,
        _prepare,
    ),
    "train": Command(
        "Train a GPT on a token store.",
        """
  lengthen train laptop-10min --data store --out runs/first
  lengthen train my.toml --data store --out runs/second --pacing.start 8 --pacing.duration 200
  lengthen train runs/first/config.toml --out runs/again      the same run once more
  torchrun --nproc-per-node 4 -m lengthen train gpt2-117m --data store --out run --resume auto
""",
        _train_arguments,
        _train,
        takes_settings=True,
    ),
    "resume": Command(
        "Go on with a run from its newest good checkpoint.",
        """
  lengthen resume runs/first
  lengthen resume runs/first --budget.tokens 20M
  lengthen resume runs/first --checkpoint step-00001000 --run.on_nonfinite skip
""",
        _resume_arguments,
        _resume,
        takes_settings=True,
    ),
    "plan": Command(
        "Say what a configuration will cost; train nothing.",
        """
  lengthen plan laptop-10min --data store
  lengthen plan gpt2-1.5b --flops 100T
  lengthen plan my.toml --pacing.duration 45K
""",
        _plan_arguments,
        _plan,
        takes_settings=True,
    ),
    "compare": Command(
        "Train variants under equal budgets over several seeds, and say what can be told apart.",
        """
  lengthen compare examples/controls.toml --data store --out runs/controls
  lengthen compare examples/controls.toml --data store --out runs/controls    goes on where it was
  lengthen compare my.toml --data store --out runs/timed --jobs 1             seconds count, too
  lengthen compare my.toml --out runs/timed --look                            tables so far
""",
        _compare_arguments,
        _compare,
        takes_settings=True,
    ),
    "sample": Command(
        "Write text with a trained model.",
        """
  lengthen sample runs/first --prompt 'It was a dark and'
  lengthen sample runs/first --tokens 500 --temperature 0.7 --seed 3
""",
        _sample_arguments,
        _sample,
    ),
    "verify": Command(
        "Check every byte of a token store, a run's checkpoints or one checkpoint.",
        """
  lengthen verify store
  lengthen verify runs/first
  lengthen verify runs/first/checkpoints/step-00001000
""",
        _verify_arguments,
        _verify,
    ),
}

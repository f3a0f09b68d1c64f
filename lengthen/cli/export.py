"""`lengthen export`: write a run as a GPT-2, a Llama or a Qwen3 for Transformers."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder")
    parser.add_argument(
        "--checkpoint", metavar="step-N", help="the checkpoint (the newest good one)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.exchange.export import export
    from lengthen.util.console import say
    from lengthen.util.tables import facts, show

    name, notes = export(**named(options))
    say(notes)
    show([facts([("checkpoint", name), ("folder", str(options.out))])])
    return 0


COMMAND = Command(
    "Write a run as the GPT-2, Llama or Qwen3 that it is, for Transformers.",
    """
  lengthen export runs/first --out first-hf
  lengthen export runs/first --out first-hf --checkpoint step-00001000 --overwrite
""",
    _arguments,
    _run,
)

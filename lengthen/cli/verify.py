"""`lengthen verify`: check every byte of a store, a run or a checkpoint."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings


def _arguments(parser: Parser) -> None:
    parser.add_argument("path", type=Path, metavar="DIR", help="a token store, run or checkpoint")


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.checkpoint.verify import verify
    from lengthen.util.tables import show

    show(verify(options.path))
    return 0


COMMAND = Command(
    "Check every byte of a token store, a run's checkpoints or one checkpoint.",
    """
  lengthen verify store
  lengthen verify runs/first
  lengthen verify runs/first/checkpoints/step-00001000
""",
    _arguments,
    _run,
)

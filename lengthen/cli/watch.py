"""`lengthen watch`: follow a run."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks (2)")
    parser.add_argument("--once", action="store_true", help="one look, one line")


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.reporting.watch import watch

    return watch(options.run, every=options.every, once=options.once)


COMMAND = Command(
    "Follow a run, live, from its log alone.",
    """
  lengthen watch runs/first
  lengthen watch runs/first --once
""",
    _arguments,
    _run,
)

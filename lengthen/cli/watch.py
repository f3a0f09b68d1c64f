"""`lengthen watch`: follow a run."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, or a folder of runs")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two updates (2)")
    parser.add_argument("--once", action="store_true", help="show the state once and end")


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.reporting.watch import watch

    return watch(**named(options))


COMMAND = Command(
    "Follow a run, or a comparison, live, from its logs alone.",
    """
  lengthen watch runs/first
  lengthen watch runs/first --once
  lengthen watch runs/question                               all runs of a comparison
""",
    _arguments,
    _run,
)

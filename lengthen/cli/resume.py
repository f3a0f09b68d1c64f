"""`lengthen resume`: continue a run from a checkpoint."""

import argparse
from pathlib import Path

from lengthen.cli.command import (
    Command,
    Parser,
    Settings,
    named,
    print_on_rank_zero,
    start_computing,
)


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument(
        "--checkpoint", metavar="step-N", help="the checkpoint (the newest good one)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line")


def _run(options: argparse.Namespace, settings: Settings) -> int:
    start_computing(options)
    from lengthen.training.start import resume

    return print_on_rank_zero(resume(**named(options), settings=settings))


COMMAND = Command(
    "Continue a run from its newest good checkpoint.",
    """
  lengthen resume runs/first
  lengthen resume runs/first --budget.tokens 20M
  lengthen resume runs/first --checkpoint step-00001000 --run.on_nonfinite skip
""",
    _arguments,
    _run,
    takes_settings=True,
)

"""`lengthen pull`: fetch a run from an object store."""

import argparse
import signal
import sys
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named


def _arguments(parser: Parser) -> None:
    parser.add_argument("url", metavar="URL", help="where `lengthen push` put it")
    parser.add_argument("run", type=Path, metavar="RUN", help="a new directory")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each 64 MiB (60)")


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.checkpoint.remote import pull

    if options.alone:  # SLURM's end, too, is one at which what was fetched by half goes
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    print(pull(**named(options)))
    return 0


COMMAND = Command(
    "Fetch a run from an object store, every byte compared with its hash.",
    """
  lengthen pull s3://bucket/first runs/first
""",
    _arguments,
    _run,
)

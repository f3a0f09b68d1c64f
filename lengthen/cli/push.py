"""`lengthen push`: bring a run's copy in an object store up to the run."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, also one in training")
    parser.add_argument("url", metavar="URL", help="s3://BUCKET/NAME, gs://BUCKET/NAME, file://DIR")
    what = "replace the copy of another run, or of a later step, and send everything again"
    parser.add_argument("--overwrite", action="store_true", help=what)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each 64 MiB (60)")


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.checkpoint.remote import push

    print(push(**named(options)))
    return 0


COMMAND = Command(
    "Copy a run to an object store; what is there already is not sent again.",
    """
  lengthen push runs/first s3://bucket/first
  lengthen push runs/first gs://bucket/first --timeout 300
""",
    _arguments,
    _run,
)

"""`lengthen tune`: find start and duration of the length warmup."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named
from lengthen.util.errors import UnstableError


def _arguments(parser: Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE|FILE.toml", help="one of `lengthen recipes`")
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory of trials and result"
    )
    parser.add_argument(
        "--starts",
        nargs="+",
        type=int,
        default=[],
        metavar="TOKENS",
        help="start lengths to try (8, or 64 from a billion parameters on, doubled up to a quarter "
        "of full length)",
    )
    parser.add_argument(
        "--judge-tokens",
        type=int,
        help="validation tokens of an evaluation in a race (6656); other trials read a quarter",
    )
    parser.add_argument(
        "--aggressive",
        action="store_true",
        help="then also find the largest learning rate and rows",
    )
    parser.add_argument(
        "--jobs", type=int, help="trials side by side (one for each GPU or 4 cores)"
    )
    parser.add_argument(
        "--threads", type=int, help="threads of each trial (the cores divided among the jobs)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from lengthen.experiments.tune.tune import tune

    result = tune(**named(options), settings=settings)
    result.print()
    if result.failure:
        raise UnstableError(result.failure)
    return 0


COMMAND = Command(
    "Find start and duration of the length warmup for a new model, by short trials.",
    """
  lengthen tune laptop-10min --data store --out runs/tuned
  lengthen tune laptop-10min --data store --out runs/tuned    continues
  lengthen tune my.toml --data store --out runs/tuned --starts 8 16 32 --aggressive
  lengthen train runs/tuned/tuned.toml --out runs/first
""",
    _arguments,
    _run,
    takes_settings=True,
)

"""`lengthen demo`: train a small GPT three ways and compare them."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named, start_computing


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="directory of the demo (demo)"
    )
    parser.add_argument("--text", type=Path, help="your own text instead of the Python library")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo there")


def _run(options: argparse.Namespace, _: Settings) -> int:
    start_computing(options)
    from lengthen.experiments.demo import demo

    demo(**named(options))
    return 0


COMMAND = Command(
    "Train a small GPT three ways and compare them, in about two minutes.",
    """
  lengthen demo
  lengthen demo --text my-novel.txt --out my-demo
""",
    _arguments,
    _run,
)

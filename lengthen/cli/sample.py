"""`lengthen sample`: write text with a trained model."""

import argparse
from itertools import chain
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named, start_computing


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "run", type=Path, metavar="RUN|HF_FOLDER", help="a run, or a model of Transformers"
    )
    parser.add_argument("--prompt", default="", help="text to continue")
    parser.add_argument("--tokens", type=int, default=200, help="most tokens to write (200)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0: the likeliest token (0.8)"
    )
    parser.add_argument(
        "--top-k", type=int, default=50, help="number of tokens to choose among; 0: all (50)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (0)")


def _run(options: argparse.Namespace, _: Settings) -> int:
    start_computing(options)
    from lengthen.evaluation.generate import sample

    pieces = sample(**named(options))
    first = next(pieces, "")  # a model that gives no text gives no prompt either
    print(options.prompt, end="")
    try:
        for piece in chain([first], pieces):
            print(piece, end="", flush=True)
    finally:
        print()
    return 0


COMMAND = Command(
    "Write text with a trained model.",
    """
  lengthen sample runs/first --prompt 'It was a dark and'
  lengthen sample runs/first --tokens 500 --temperature 0.7 --seed 3
""",
    _arguments,
    _run,
)

"""`lengthen import`: make a run of a GPT-2, a Llama or a Qwen3 from Transformers."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named, start_computing


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="HF_FOLDER", help="a model as Transformers saves it"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="the run's directory"
    )
    parser.add_argument("--data", metavar="STORE", help="a token store to train it on")
    parser.add_argument(
        "--recipe",
        metavar="RECIPE|FILE.toml",
        help="all settings but the model's",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run")


def _run(options: argparse.Namespace, settings: Settings) -> int:
    start_computing(options)
    from lengthen.training.import_pretrained import import_pretrained
    from lengthen.util.console import say
    from lengthen.util.tables import facts, show

    say(import_pretrained(**named(options), settings=settings))
    show([facts([("run", str(options.out)), ("checkpoint", "step-00000000")])])
    return 0


COMMAND = Command(
    "Make a run of a GPT-2, Llama or Qwen3 of Transformers, to sample from or to train on.",
    """
  lengthen import gpt2 --out runs/gpt2
  lengthen import gpt2 --out runs/tuned --data store --recipe my.toml --budget.tokens 20M
  lengthen resume runs/tuned
""",
    _arguments,
    _run,
    takes_settings=True,
)

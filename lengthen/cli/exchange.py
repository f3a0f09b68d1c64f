"""The commands that carry models between Transformers and us: export, import."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, print_lines, print_notes, with_data
from lengthen.config.recipes import RECIPES
from lengthen.config.schema import Tables


def _export_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument("--checkpoint", metavar="step-N", help="this one, not the newest good one")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")


def _export(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.exchange.export import export

    name, out = options.checkpoint, options.out
    name, notes = export(options.run, out, name=name, overwrite=options.overwrite)
    print_notes(notes)
    return print_lines([("checkpoint", name), ("folder", str(out))])


def _import_arguments(parser: Parser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="HF_FOLDER", help="GPT-2 as Transformers saves it"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="where it goes")
    parser.add_argument("--data", metavar="STORE", help="a token store to train it on")
    parser.add_argument(
        "--recipe",
        metavar="RECIPE|FILE.toml",
        help=f"how it will be trained, the model aside: {', '.join(RECIPES)}",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run")


def _import(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.training.import_pretrained import adopt

    notes = adopt(
        options.folder,
        options.out,
        recipe=options.recipe,
        overrides=with_data(overrides, options.data),
        overwrite=options.overwrite,
    )
    print_notes(notes)
    return print_lines([("run", str(options.out)), ("checkpoint", "step-00000000")])


EXCHANGE = {
    "export": Command(
        "Write a run as a GPT-2 that Transformers opens.",
        """
  lengthen export runs/first --out first-hf
  lengthen export runs/first --out first-hf --checkpoint step-00001000 --overwrite
""",
        _export_arguments,
        _export,
    ),
    "import": Command(
        "Make a run of a GPT-2 that Transformers saved, to sample from or to train on.",
        """
  lengthen import gpt2 --out runs/gpt2
  lengthen import gpt2 --out runs/tuned --data store --recipe my.toml --budget.tokens 20M
  lengthen resume runs/tuned
""",
        _import_arguments,
        _import,
        takes_settings=True,
        computes=True,
    ),
}

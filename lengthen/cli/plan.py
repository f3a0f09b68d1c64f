"""`lengthen plan`: what configurations will cost."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named, start_computing
from lengthen.util.errors import SettingError


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "recipes", nargs="+", metavar="RECIPE|FILE.toml", help="any of `lengthen recipes`"
    )
    parser.add_argument("--data", metavar="DIR", help="a token store, for epochs and leftovers")
    parser.add_argument(
        "--flops", help="FLOP/s that a step reaches, such as 100T; without it steps are tried here"
    )
    parser.add_argument(
        "--ranks", metavar="N,N,...", help="numbers of GPUs: what each stores and sends"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="also a picture or page: .svg, .png or .html"
    )


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from lengthen.config.load import load, nested, with_data
    from lengthen.experiments.compare.file import variants_in

    for recipe in options.recipes:  # before torch: a mistake in it waits for nothing
        if not variants_in(recipe, with_data(nested(settings), options.data)):
            load(recipe, settings, data=options.data)
    start_computing(options)
    from lengthen.experiments.plans import plan

    own = named(options) | {"ranks": _ranks(options.ranks), "settings": settings}
    plan(*own.pop("recipes"), **own).print()
    if options.out is not None:
        print(options.out)
    return 0


def _ranks(text: str | None) -> list[int]:
    try:
        return [int(word) for word in text.split(",")] if text is not None else []
    except ValueError:
        rule = "must be whole numbers with commas between"
        raise SettingError("--ranks", rule, text) from None


COMMAND = Command(
    "Show what configurations will cost, side by side; train nothing.",
    """
  lengthen plan laptop-10min --data store
  lengthen plan gpt2-1.5b --flops 100T --ranks 8,64,512
  lengthen plan my.toml --pacing.duration 45K
  lengthen plan laptop-10min laptop-10min-baseline --data store --out plan.svg
""",
    _arguments,
    _run,
    takes_settings=True,
)

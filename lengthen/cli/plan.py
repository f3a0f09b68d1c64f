"""`lengthen plan`: what configurations will cost."""

import argparse
from pathlib import Path

from lengthen.cli.command import (
    Command,
    Parser,
    Settings,
    print_notes,
    start_computing,
)
from lengthen.config.recipes import RECIPES
from lengthen.util.errors import SettingError

MOST_RANKS = 10**6  # more than there are anywhere


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "recipes", nargs="+", metavar="RECIPE|FILE.toml", help=f"any of {', '.join(RECIPES)}"
    )
    parser.add_argument("--data", metavar="DIR", help="a token store, for passes and leftovers")
    parser.add_argument(
        "--flops", help="FLOP/s that a step reaches, such as 100T; without it steps are tried here"
    )
    parser.add_argument(
        "--ranks", metavar="N,N,...", help="numbers of GPUs: what each holds and sends"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="a picture as well: .svg, .png or .html"
    )


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from lengthen.config.load import load

    worlds = _worlds(options.ranks)
    named = {}
    for source in options.recipes:
        config, notes = load(source, settings, data=options.data)
        print_notes(notes)
        named[_plan_name(source, options.recipes)] = config
    start_computing(options)
    from lengthen.distributed.per_rank import table as loads
    from lengthen.planning.forecast import check_out, forecasts, lines, table, write
    from lengthen.util.tables import console, printed, two_columns

    if options.out is not None:
        check_out(options.out)
    found = forecasts(named, options.flops, lambda note: print_notes([note]))
    if len(found) == 1:
        print(two_columns(lines(found[0])))
    else:
        console().print(printed(table(found)))
    for one in found if worlds else ():
        console().print(printed(loads(one.name, one.config, one.plan.micro_tokens, worlds)))
    if options.out is not None:
        write(options.out, found)
        print(options.out)
    return 0


def _worlds(ranks: str | None) -> list[int]:
    try:
        worlds = [int(word) for word in ranks.split(",")] if ranks is not None else []
    except ValueError:
        worlds = [0]
    if not all(2 <= world_size <= MOST_RANKS for world_size in worlds):
        rule = f"must be whole numbers from 2 to {MOST_RANKS}, with commas between"
        raise SettingError("--ranks", rule, ranks)
    return worlds


def _plan_name(source: str, sources: list[str]) -> str:
    """Return a file's own name, or its path where two have that name."""
    name = source.removesuffix(".toml").rpartition("/")[2]
    alike = [one for one in sources if one.removesuffix(".toml").rpartition("/")[2] == name]
    return name if len(alike) == 1 else source


COMMAND = Command(
    "Say what configurations will cost, side by side; train nothing.",
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

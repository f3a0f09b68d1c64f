"""The commands that look at something: plan, report, watch, sample, verify."""

import argparse
import math
from itertools import chain
from pathlib import Path

from lengthen.cli.command import Command, Parser, print_lines, print_notes, with_data
from lengthen.config.load import load
from lengthen.config.recipes import RECIPES
from lengthen.config.schema import Tables
from lengthen.util.errors import SettingError

MOST_RANKS = 10**6  # more than there are anywhere


def _plan_arguments(parser: Parser) -> None:
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
    parser.add_argument("--out", type=Path, metavar="FILE.svg|FILE.html", help="a picture as well")


def _plan(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.distributed.per_rank import table as loads
    from lengthen.planning.forecast import check_out, forecasts, lines, table, write
    from lengthen.util.tables import console, printed

    worlds = _worlds(options.ranks)
    if options.out is not None:
        check_out(options.out)
    named = {}
    for source in options.recipes:
        config, notes = load(source, with_data(overrides, options.data))
        print_notes(notes)
        named[_plan_name(source, options.recipes)] = config
    found = forecasts(named, options.flops, lambda note: print_notes([note]))
    if len(found) == 1:
        print_lines(lines(found[0]))
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


def _report_arguments(parser: Parser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="runs, folders of runs, or other logs"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="one page instead of text")
    parser.add_argument("--title", help="of the page (the runs' names)")
    parser.add_argument(
        "--losses",
        nargs="+",
        type=float,
        default=[],
        metavar="NATS",
        help="validation losses to time",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="columns of another trainer's CSV or JSONL, such as step=iteration loss=train/loss",
    )


def _report(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.reporting.gather import gather
    from lengthen.reporting.text import lines
    from lengthen.util.tables import Table, console, printed

    for loss in options.losses:
        if not math.isfinite(loss):
            raise SettingError("--losses", "must be finite numbers of nats", loss)
    try:
        runs = gather(options.runs, _columns(options.columns))
    except SettingError as error:
        if not error.setting.startswith("columns"):
            raise
        raise SettingError(f"--{error.setting}", error.rule, error.value, error.hint) from None
    if options.out is None:
        out = console()
        for part in lines(runs, options.losses):
            if isinstance(part, Table):
                out.print(printed(part))
            else:
                print(part)
        return 0
    from lengthen.reporting.evaluations import panels
    from lengthen.reporting.html import write

    parts = list(lines(runs, options.losses))
    write(
        options.out,
        runs,
        title=options.title or _title([run.name for run in runs]),
        verdicts=[part for part in parts if isinstance(part, str) and not part.startswith(" ")],
        tables=[part for part in parts if isinstance(part, Table)],
        panels=panels({run.name: run.results for run in runs}),
    )
    print(options.out)
    return 0


def _columns(words: list[str]) -> dict[str, str] | None:
    columns = {}
    for word in words:
        ours, equals, theirs = word.partition("=")
        if not equals or not theirs:
            raise SettingError("--columns", "must be OURS=THEIRS, such as step=iteration", word)
        columns[ours] = theirs
    return columns or None


def _title(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _watch_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks (2)")
    parser.add_argument("--once", action="store_true", help="one look, one line")


def _watch(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.reporting.watch import watch

    return watch(options.run, every=options.every, once=options.once)


def _sample_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN|HF_FOLDER", help="a run, or GPT-2 weights")
    parser.add_argument("--prompt", default="", help="text to go on from")
    parser.add_argument("--tokens", type=int, default=200, help="at most so many (200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is the likeliest (0.8)")
    parser.add_argument("--top-k", type=int, default=50, help="choose among so many; 0: all (50)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same text (0)")


def _sample(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.evaluation.sample import sample

    pieces = sample(
        options.run,
        prompt=options.prompt,
        tokens=options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        seed=options.seed,
    )
    first = next(pieces, "")  # a model that gives no text gives no prompt either
    print(options.prompt, end="")
    try:
        for piece in chain([first], pieces):
            print(piece, end="", flush=True)
    finally:
        print()
    return 0


def _verify_arguments(parser: Parser) -> None:
    parser.add_argument("path", type=Path, metavar="DIR", help="a token store, run or checkpoint")


def _verify(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.checkpoint.verify import verify

    for text in verify(options.path):
        print(text)
    return 0


LOOK = {
    "plan": Command(
        "Say what configurations will cost, side by side; train nothing.",
        """
  lengthen plan laptop-10min --data store
  lengthen plan gpt2-1.5b --flops 100T --ranks 8,64,512
  lengthen plan my.toml --pacing.duration 45K
  lengthen plan laptop-10min laptop-10min-baseline --data store --out plan.svg
""",
        _plan_arguments,
        _plan,
        takes_settings=True,
        computes=True,
    ),
    "report": Command(
        "Say what runs have shown: as text, or as one page that opens without a network.",
        """
  lengthen report runs/first
  lengthen report runs/first runs/second --losses 5.5 5.2
  lengthen report runs/controls --out controls.html
  lengthen report other.csv --columns step=iteration loss=train/loss eval_loss=val/loss
""",
        _report_arguments,
        _report,
    ),
    "watch": Command(
        "Follow a run, live, from its log alone.",
        """
  lengthen watch runs/first
  lengthen watch runs/first --once
""",
        _watch_arguments,
        _watch,
    ),
    "sample": Command(
        "Write text with a trained model.",
        """
  lengthen sample runs/first --prompt 'It was a dark and'
  lengthen sample runs/first --tokens 500 --temperature 0.7 --seed 3
""",
        _sample_arguments,
        _sample,
        computes=True,
    ),
    "verify": Command(
        "Check every byte of a token store, a run's checkpoints or one checkpoint.",
        """
  lengthen verify store
  lengthen verify runs/first
  lengthen verify runs/first/checkpoints/step-00001000
""",
        _verify_arguments,
        _verify,
    ),
}

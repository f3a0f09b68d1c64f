"""`lengthen report`: what runs have shown."""

import argparse
import math
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings
from lengthen.util.errors import SettingError


def _arguments(parser: Parser) -> None:
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


def _run(options: argparse.Namespace, _: Settings) -> int:
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


COMMAND = Command(
    "Say what runs have shown: as text, or as one page that opens without a network.",
    """
  lengthen report runs/first
  lengthen report runs/first runs/second --losses 5.5 5.2
  lengthen report runs/controls --out controls.html
  lengthen report other.csv --columns step=iteration loss=train/loss eval_loss=val/loss
""",
    _arguments,
    _run,
)

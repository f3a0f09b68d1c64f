"""`lengthen report`: what runs have shown."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named
from lengthen.util.errors import SettingError


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="runs, folders of runs, or other logs"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="write one page instead of text"
    )
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="write each figure as SVG and PNG"
    )
    parser.add_argument("--to", metavar="TRACKER", help="send the records to tensorboard or wandb")
    parser.add_argument("--title", help="title of the page (the runs' names)")
    parser.add_argument(
        "--losses",
        nargs="+",
        type=float,
        default=[],
        metavar="NATS",
        help="show when runs reached these validation losses",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="columns of another trainer's CSV or JSONL, such as step=iteration loss=train/loss",
    )


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.reporting.report import report

    try:
        result = report(**named(options) | {"columns": _columns(options.columns)})
    except SettingError as error:
        if not error.setting.startswith("columns"):
            raise
        raise SettingError(f"--{error.setting}", error.rule, error.value, error.hint) from None
    if result.page is None:
        result.print()
    for path in filter(None, (result.page, options.figures)):
        print(path)
    return 0


def _columns(words: list[str]) -> dict[str, str] | None:
    columns = {}
    for word in words:
        ours, equals, theirs = word.partition("=")
        if not equals or not theirs:
            raise SettingError("--columns", "must be OURS=THEIRS, such as step=iteration", word)
        columns[ours] = theirs
    return columns or None


COMMAND = Command(
    "Show the results of runs: as text, or as one page that opens without a network.",
    """
  lengthen report runs/first
  lengthen report runs/first runs/second --losses 5.5 5.2
  lengthen report runs/controls --out controls.html
  lengthen report other.csv --columns step=iteration loss=train/loss eval_loss=val/loss
""",
    _arguments,
    _run,
)

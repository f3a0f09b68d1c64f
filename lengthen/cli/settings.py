"""`lengthen settings`: what every setting means."""

import argparse

from lengthen.cli.command import Command, Parser, Settings


def _arguments(parser: Parser) -> None:
    parser.add_argument("table", nargs="?", metavar="TABLE", help="one of them, such as pacing")


def _run(options: argparse.Namespace, _: Settings) -> int:
    from lengthen.config.reference import explained
    from lengthen.util.tables import show

    show(explained(options.table))
    return 0


COMMAND = Command(
    "Explain the settings: type, unit, default and meaning.",
    """
  lengthen settings
  lengthen settings pacing
""",
    _arguments,
    _run,
)

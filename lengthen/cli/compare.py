"""`lengthen compare`: train variants over several seeds and compare them."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings, named
from lengthen.util.errors import SettingError


def _arguments(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="variants, grid and seeds")
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="DIR", help="directory of runs, tables and page")
    where.add_argument(
        "--lay-out", type=Path, metavar="DIR", help="train nothing: write a command for each run"
    )
    parser.add_argument(
        "--jobs", type=int, help="runs side by side (one for each GPU, else for each core)"
    )
    parser.add_argument(
        "--threads", type=int, help="threads of each run (the cores divided among the jobs)"
    )
    parser.add_argument("--amend", action="store_true", help="continue with a changed file")
    parser.add_argument("--look", action="store_true", help="train nothing: show the tables so far")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from lengthen.config.load import nested, with_data
    from lengthen.experiments.compare.compare import asked_for, compare
    from lengthen.experiments.compare.run import write_commands

    own = named(options) | {"settings": settings}
    if (root := own.pop("lay_out")) is None:
        compare(**own).print()
        return 0
    for name in ("jobs", "threads", "look"):
        if value := getattr(options, name):
            rule = "must be left out: laying out trains and judges nothing"
            raise SettingError(f"--{name}", rule, value)
    asked = asked_for(options.file, with_data(nested(settings), options.data))
    print(write_commands(asked, root, amend=options.amend, shown=not options.quiet))
    return 0


COMMAND = Command(
    "Train variants under equal budgets over several seeds, and say which are distinguishable.",
    """
  lengthen compare examples/controls.toml --data store --out runs/controls
  lengthen compare examples/controls.toml --data store --out runs/controls    continues
  lengthen compare my.toml --data store --out runs/timed --jobs 1             seconds count, too
  lengthen compare my.toml --out runs/timed --look                            tables so far
  lengthen compare my.toml --data store --lay-out runs/timed                  for a cluster
  lengthen compare examples/commands/nanogpt.toml --out runs/rates            any command
""",
    _arguments,
    _run,
    takes_settings=True,
)

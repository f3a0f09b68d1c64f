"""`lengthen train`: train a GPT on a token store."""

import argparse
from pathlib import Path

from lengthen.cli.command import (
    Command,
    Parser,
    Settings,
    print_on_rank_zero,
    start_computing,
)
from lengthen.util.errors import SettingError


def _arguments(parser: Parser) -> None:
    parser.has_common_settings = True
    parser.add_argument("recipe", metavar="RECIPE|FILE.toml", help="one of `lengthen recipes`")
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run there")
    parser.add_argument(
        "--resume", choices=("auto",), help="continue the same run if it is there, for launchers"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    parser.add_argument(
        "--dry-run", action="store_true", help="print all settings as TOML; train and write nothing"
    )


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from lengthen.config.load import load
    from lengthen.data.open_store import open_store, with_store
    from lengthen.distributed.auto import decided
    from lengthen.util.console import say

    if options.out is None and not options.dry_run:
        raise SettingError("--out", "is missing", None, "give a directory for the run")
    config, notes = load(options.recipe, settings, data=options.data)
    say(notes)
    if options.dry_run:
        # As config.toml will have them, but for what the device decides when the run starts.
        if options.out is not None:
            from lengthen.training.start import check_start

            auto = options.resume == "auto"
            check_start(config, options.out, overwrite=options.overwrite, resume_auto=auto)
        if config.data.path is not None:
            store = open_store(config)
            config, reasons = decided(with_store(config, store), store)
            say(reasons)
        print(config.to_toml(), end="")
        return 0
    start_computing(options)
    from lengthen.training.start import train

    summary = train(
        config,
        options.out,
        overwrite=options.overwrite,
        resume=options.resume,
        quiet=options.quiet,
    )
    return print_on_rank_zero(summary)


COMMAND = Command(
    "Train a GPT on a token store.",
    """
  lengthen train laptop-10min --data store --out runs/first
  lengthen train my.toml --data store --out runs/second --pacing.start 8 --pacing.duration 200
  lengthen train my.toml --data store --dry-run               what all settings come to
  lengthen train runs/first/config.toml --out runs/again      the same run once more
  torchrun --nproc-per-node 4 -m lengthen train gpt2-117m --data store --out run --resume auto
""",
    _arguments,
    _run,
    takes_settings=True,
)

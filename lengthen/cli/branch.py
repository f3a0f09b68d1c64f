"""`lengthen branch`: start a run from a checkpoint of another."""

import argparse
from pathlib import Path

from lengthen.cli.command import (
    Command,
    Parser,
    Settings,
    named,
    print_on_rank_zero,
    start_computing,
)


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run to branch from")
    parser.add_argument("--at", metavar="STEP", help="step of the checkpoint (the newest good one)")
    parser.add_argument(
        "--out", type=Path, metavar="NEW", required=True, help="directory of the new run"
    )
    parser.add_argument("--data", metavar="DIR", help="another token store, of the same tokenizer")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run there")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    parser.add_argument(
        "--dry-run", action="store_true", help="print all settings as TOML; train and write nothing"
    )


def _run(options: argparse.Namespace, settings: Settings) -> int:
    start_computing(options)
    from lengthen.run.directory import RunPaths, open_run
    from lengthen.training.branch import branch, check_new_branch, plan_branch

    asked = {**named(options), "settings": settings}
    if asked.pop("dry_run"):
        parent = open_run(options.run)
        config, _, _ = plan_branch(parent, settings, options.data)
        check_new_branch(parent, RunPaths(options.out), overwrite=options.overwrite)
        print(config.to_toml(), end="")
        return 0
    return print_on_rank_zero(branch(**asked))


COMMAND = Command(
    "Start a run from a checkpoint of another, weights and moments kept.",
    """
  lengthen branch runs/trunk --at 1000 --out runs/1m --optimizer.schedule wsd --budget.tokens 1M
  lengthen branch runs/short --out runs/long --model.length 4096 --model.rope_theta 500000 \\
      --pacing.kind doubling --pacing.start 512 --pacing.duration 90 --budget.tokens 10M
  lengthen branch runs/first --out runs/second --data other-store --optimizer.learning_rate 1e-4
""",
    _arguments,
    _run,
    takes_settings=True,
)

"""`lengthen import-config`: a warmup of DeepSpeed's as TOML of ours."""

import argparse
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings


def _arguments(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="DeepSpeed's JSON")


def _run(options: argparse.Namespace, _: Settings) -> int:
    import tomli_w

    from lengthen.config.deepspeed import imported
    from lengthen.core.custom_pacing import settings_of

    found = imported(options.file)
    notes = "".join(f"# - {note}\n" for note in found.differences())
    tables = {"model": {"length": found.pacing.end}, "pacing": settings_of(found.pacing)}
    text = tomli_w.dumps({**tables, "batch": dict(found.batch)})
    print(f"# What differs from DeepSpeed 0.19.8:\n{notes}\n{text.rstrip()}")
    return 0


COMMAND = Command(
    "Print DeepSpeed's curriculum_learning or data_efficiency as settings, and what differs.",
    """
  lengthen import-config ds_config.json > my.toml
""",
    _arguments,
    _run,
)

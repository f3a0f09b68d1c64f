"""The parts of a visit to a GPU, most telling first; each is a module of this folder.

    python -m scripts.gpu.NAME FOLDER SECONDS [--rehearse]

A part writes what it finds into FOLDER as it goes, for after SECONDS it is killed. With --rehearse
it does the same on a processor, at a tiny size. A new part is a module and a line here.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A piece of work that has a process, a folder and a share of the time for itself."""

    name: str  # of its module and its folder
    share: float  # of the time box


PARTS = (
    Part("lengths", 0.06),  # seconds a token by length at GPT-2 117M: what a warmup saves
    Part("long", 0.34),  # three schedules at length 16,384
    Part("tests", 0.12),  # the tests marked `gpu`
    Part("cliff", 0.41),  # rates that break constant length, and a length warmup there
    Part("speed", 0.07),  # the trainer's step beside others
)


@dataclass(frozen=True)
class Call:
    """How a part was called."""

    folder: Path
    seconds: float
    rehearse: bool

    @property
    def device(self) -> str:
        """Where it computes."""
        return "cpu" if self.rehearse else "cuda"

    def write(self, **figures: object) -> None:
        """Add a line to the part's figures; they survive whatever comes after."""
        line = json.dumps(figures)
        with (self.folder / "figures.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def called() -> Call:
    """Return how this process was called as a part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rehearse", action="store_true")
    return Call(**vars(parser.parse_args()))

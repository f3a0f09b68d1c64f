"""What a user wants of the tasks; every task takes it and reads what concerns it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wanted:
    """The options of an evaluation."""

    sets: Path | None = None  # a folder with the sets; None: those of the installed package
    shots: int = 0  # solved examples ahead of each question
    limit: int | None = None  # items, the first ones; None: all
    stride: int | None = None  # tokens that a sliding window scores; None: all of its own
    seed: int = 0  # of the choice of shots

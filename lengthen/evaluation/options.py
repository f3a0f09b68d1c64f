"""What a user wants of the tasks; every task takes it and reads what concerns it."""

from dataclasses import dataclass
from pathlib import Path

from lengthen.util.errors import SettingError


@dataclass(frozen=True)
class Wanted:
    """The options of an evaluation; raises SettingError for a number that means nothing."""

    sets: Path | None = None  # a folder with the sets, or the file of one; None: as installed
    shots: int = 0  # solved examples ahead of each question
    limit: int | None = None  # items, the first ones; None: all
    stride: int | None = None  # tokens that a sliding window scores; None: all of its own
    seed: int = 0  # of the choice of shots

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise SettingError("--shots", "must be at least 0", self.shots)
        for name, value in (("--limit", self.limit), ("--stride", self.stride)):
            if value is not None and value < 1:
                raise SettingError(name, "must be at least 1", value)

"""A table of the seconds a token by length that a device was measured to take, as a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1


@dataclass(frozen=True)
class SecondsTable:
    """Seconds of training a token, at equally many tokens in every step."""

    device: str
    model: dict[str, Any]  # the settings of what was trained
    seconds_per_token: dict[int, float]  # by length

    def of_step(self, rows: int, length: int) -> float:
        """Return the seconds of a step, in proportion between the two nearest lengths."""
        known = sorted(self.seconds_per_token)
        seconds = [self.seconds_per_token[each] for each in known]
        return rows * length * float(np.interp(length, known, seconds))

    def covers(self, shortest: int, longest: int) -> bool:
        """Return whether both lengths lie within those that were measured."""
        known = self.seconds_per_token
        return bool(known) and min(known) <= shortest and longest <= max(known)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


def read(path: Path) -> SecondsTable:
    """Return the table in a file; raises ValueError, in one line, where it is none."""
    try:
        found = json.loads(path.read_bytes())
        seconds = {int(length): float(each) for length, each in found["seconds_per_token"].items()}
        if found["format"] != FORMAT or not seconds or min(seconds.values()) <= 0:
            raise ValueError
        return SecondsTable(str(found["device"]), dict(found["model"]), seconds)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        rule = "must be a table of seconds a token by length, such as `make gpu` measures"
        raise ValueError(f"{path}: {rule}") from None

"""The frameworks whose loops the integrations live in: installed, new enough, or named.

A module of an integration can be imported without its host. What is used then says what to install.
"""

import os
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, NoReturn

from lengthen.util.errors import SettingError


class Host(NamedTuple):
    """A package, the oldest version that will do, and the extra of ours that installs it."""

    package: str
    least: str
    extra: str

    def mistake(self) -> SettingError | None:
        """Return what is wrong with the version that is installed, if anything."""
        hint = f"pip install 'lengthen[{self.extra}]'"
        try:
            found = version(self.package)
        except PackageNotFoundError:
            return SettingError(self.package, "is not installed", None, hint)
        if _numbers(found) < _numbers(self.least):
            return SettingError(self.package, f"must be {self.least} or newer", found, hint)
        return None

    def check(self) -> None:
        """Raise SettingError where it is not installed, or too old."""
        if mistake := self.mistake():
            raise mistake

    def stand_in(self) -> Any:
        """Return a class in place of one of the host's: whoever makes one gets the mistake."""

        class StandIn:
            def __new__(cls, *_: object, **__: object) -> NoReturn:
                self.check()
                raise AssertionError("the host is there")

        return StandIn


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


TRANSFORMERS = Host("transformers", "5.6", "hf")
ACCELERATE = Host("accelerate", "1.15", "hf")
LIGHTNING = Host("lightning", "2.6", "lightning")


def check_processes(world_size: int, hint: str) -> None:
    """Raise SettingError where a launcher started processes that do not know of each other."""
    started = os.environ.get("WORLD_SIZE", "1")
    if started != "1" and world_size == 1:  # each would write the run
        rule = f"must be the {started} processes that were started (WORLD_SIZE)"
        raise SettingError("world_size", rule, 1, hint)

"""A pacing that is any Python function of the step, checked for the contract as it runs."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from operator import index
from typing import ClassVar, Literal, SupportsIndex, TypeAlias

from lengthen.core.budget_share import BudgetShare
from lengthen.core.pacing import Fixed, Pacing, check_of, check_whole
from lengthen.core.settings import Of
from lengthen.util.errors import SettingError


@dataclass(frozen=True)
class RecordedFunction:
    """The function of a run, of which its config.toml has no more than the name."""

    name: str

    def __call__(self, step: int) -> int:
        """Return the least value that there is: nobody trains with it."""
        return 1


@dataclass(frozen=True)
class Custom:
    """The values of any Python function of the step, counted from 0.

    It must return a whole number from 1 to `end` that never falls. It is called once for each step,
    in order, and checked there. Raises SettingError where it breaks the contract.

    >>> pacing = lengthen.Custom(lambda step: min(64, 8 + 4 * step), end=64)
    >>> pacing(0), pacing(3), pacing(20)
    (8, 20, 64)
    """

    function: Callable[[int], SupportsIndex]
    end: int  # tokens or rows, never exceeded
    of: Of = "length"
    kind: ClassVar[Literal["custom"]] = "custom"
    _values: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.function):
            hint = "such as pacing=Custom(lambda step: min(64, 8 + step), end=64)"
            raise SettingError("function", "must be a Python function", self.function, hint)
        check_of(self.of)
        check_whole("end", self.end)

    @property
    def name(self) -> str:
        """The function's own name, with that of its module."""
        if isinstance(self.function, RecordedFunction):
            return self.function.name
        named = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{named.__module__}.{named.__qualname__}"

    @property
    def start(self) -> int:
        """The value at step 0."""
        return self(0)

    def __call__(self, step: int) -> int:
        """Return the value at `step`."""
        while (known := len(self._values)) <= step:
            self._values[known : known + 1] = [self._value(known)]  # another thread may be ahead
        return self._values[step]

    def _value(self, step: int) -> int:
        try:
            value = self.function(step)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise SettingError("pacing.function", f"{self.name}({step}) raised {cause}") from error
        lowest = self._values[step - 1] if step else 1
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            rule = f"must return a whole number; {self.name}({step}) did not"
            raise SettingError("pacing.function", rule, value)
        if not lowest <= (whole := index(value)) <= self.end:
            rule = f"must return from {lowest} to {self.end} at step {step}, never less than before"
            raise SettingError("pacing.function", rule, whole)
        return whole

    def record(self, steps: int) -> list[list[int]]:
        """Return the values of the first `steps` steps as [first step, value], for JSON."""
        values = [self(step) for step in range(steps)]
        changes = (not step or values[step - 1] != value for step, value in enumerate(values))
        return [[step, values[step]] for step, changed in enumerate(changes) if changed]

    def check_record(self, record: object, steps: int) -> None:
        """Raise SettingError unless the function gives the values of a saved run again."""
        if record != self.record(steps):
            rule = f"gives other values than those of the first {steps} steps of the run"
            raise SettingError("pacing.function", rule, self.name, "give the run its own function")


ByStep: TypeAlias = Fixed | Custom  # what the step alone decides


def settings_of(pacing: Pacing | Custom) -> dict[str, object]:
    """Return the table of a settings file; of a function it has the name alone."""
    if isinstance(pacing, Custom):
        return {"kind": "custom", "of": pacing.of, "function": pacing.name, "end": pacing.end}
    settings = asdict(pacing).items()
    return {name: v.text if isinstance(v, BudgetShare) else v for name, v in settings}

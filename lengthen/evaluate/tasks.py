"""The tasks by name."""

from collections.abc import Callable

from lengthen.evaluate.outcome import Outcome
from lengthen.evaluate.subject import Subject
from lengthen.evaluate.wanted import Wanted

Task = Callable[[Subject, Wanted], Outcome]

TASKS: dict[str, Task] = {}

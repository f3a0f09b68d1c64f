"""All of a run's state that is no tensor: it goes to JSON and comes back equal."""

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from lengthen.config.values import MOST
from lengthen.core.ledger import Ledger
from lengthen.core.loss_ratio import LowestLoss
from lengthen.core.pacing import AdaptiveState
from lengthen.core.schedule import Counters
from lengthen.util.errors import CheckpointError

OTHER_CHECKPOINT = "choose another one"
PLAIN = ("seconds", "skipped_tokens", "skipped_in_a_row", "probed")  # numbers, as JSON has them


@dataclass(frozen=True)
class TrainState:
    """How far a run is; a step makes a new one."""

    counters: Counters
    ledger: Ledger
    lowest: LowestLoss = field(default_factory=LowestLoss)  # of the training loss
    probe_lowest: LowestLoss = field(default_factory=LowestLoss)
    seconds: float = 0.0  # of training, without evaluation and saving
    skipped_tokens: int = 0  # in steps that were not finite
    skipped_in_a_row: int = 0
    evaluated: Counters = field(default_factory=Counters)  # at the last evaluation
    probed: int = 0  # step of the last probe
    stop: bool = False  # a signal asked for it; all ranks agree

    def state(self) -> dict[str, Any]:
        """Return it as JSON has it; a request to stop is not part of a run."""
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "counters": asdict(self.counters),
            "evaluated": asdict(self.evaluated),
            "ledger": self.ledger.state(),
            "lowest": self.lowest.value,
            "probe_lowest": self.probe_lowest.value,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "TrainState":
        """Return the train state that `state` was written from; there may be other keys in it.

        Raises CheckpointError for what no run has written.
        """
        try:
            train_state = cls(
                **{name: state[name] for name in PLAIN},
                counters=_counters(state["counters"]),
                evaluated=_counters(state["evaluated"]),
                ledger=Ledger.from_state(state["ledger"]),
                lowest=LowestLoss(state["lowest"]),
                probe_lowest=LowestLoss(state["probe_lowest"]),
            )
        except (KeyError, TypeError, AttributeError):
            train_state = None
        if train_state is None or not _is_sound(train_state):
            raise CheckpointError(f"state.json: is not the state of a run; {OTHER_CHECKPOINT}")
        return train_state


def _counters(state: dict[str, Any]) -> Counters:
    adaptive = state["adaptive"]
    if adaptive is not None:
        adaptive = AdaptiveState(**_every(AdaptiveState, adaptive))
    return Counters(**{**_every(Counters, state), "adaptive": adaptive})


def _every(kind: type[Counters | AdaptiveState], state: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `kind` in `state`; raises KeyError where it leaves one to a default."""
    return {one.name: state[one.name] for one in fields(kind)}


def _is_sound(state: Any) -> bool:
    """Return whether every number of a dataclass is one that a run may have written."""
    return all(_is_value(getattr(state, one.name), one.type) for one in fields(state))


def _is_value(value: Any, kind: Any) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value <= MOST
    if value is None:
        return kind is not float
    if kind in (float, float | None):
        return type(value) in (int, float) and 0 <= value < math.inf
    # A ledger has been checked as it was read.
    return not is_dataclass(value) or isinstance(value, Ledger) or _is_sound(value)


def check_same_run(train_state: TrainState, first: Ledger) -> None:
    """Raise CheckpointError for a sound state of another run than one that begins with `first`."""
    ledger, adaptive = train_state.ledger, train_state.counters.adaptive
    names = ("sequences", "full_length", "leftovers")
    other = any(getattr(ledger, name) != getattr(first, name) for name in names)
    if other or (adaptive is not None and not 1 <= adaptive.value <= first.full_length):
        raise CheckpointError(f"state.json: is of another run; {OTHER_CHECKPOINT}")


def log_size(state: dict[str, Any]) -> int:
    """Return the bytes that metrics.jsonl had at a save; raises CheckpointError for none."""
    size = state.get("metrics_bytes")
    if type(size) is not int or size < 0:
        raise CheckpointError(f"state.json: has no size of metrics.jsonl; {OTHER_CHECKPOINT}")
    return size

"""All of a run's state that is no tensor: it goes to JSON and comes back equal."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lengthen.clock import Clock
from lengthen.ledger import Ledger
from lengthen.monitor import LowestLoss
from lengthen.pacing import Grown


@dataclass(frozen=True)
class Progress:
    """How far a run is; a step makes a new one."""

    clock: Clock
    ledger: Ledger
    lowest: LowestLoss = field(default_factory=LowestLoss)  # of the training loss
    probe_lowest: LowestLoss = field(default_factory=LowestLoss)
    seconds: float = 0.0  # of training, without evaluation and saving
    skipped_tokens: int = 0  # in steps that were not finite
    skipped_in_a_row: int = 0
    evaluated: Clock = field(default_factory=Clock)  # at the last evaluation
    probed: int = 0  # step of the last probe
    stop: bool = False  # a signal asked for the end; all ranks agree

    def state(self) -> dict[str, Any]:
        """Return it as JSON has it; a wish to stop is not part of a run."""
        return {
            "clock": asdict(self.clock),
            "ledger": self.ledger.state(),
            "lowest": self.lowest.value,
            "probe_lowest": self.probe_lowest.value,
            "seconds": self.seconds,
            "skipped_tokens": self.skipped_tokens,
            "skipped_in_a_row": self.skipped_in_a_row,
            "evaluated": asdict(self.evaluated),
            "probed": self.probed,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Return what `state` was made of; it may hold more."""
        return cls(
            clock=_clock(state["clock"]),
            ledger=Ledger.from_state(state["ledger"]),
            lowest=LowestLoss(state["lowest"]),
            probe_lowest=LowestLoss(state["probe_lowest"]),
            seconds=state["seconds"],
            skipped_tokens=state["skipped_tokens"],
            skipped_in_a_row=state["skipped_in_a_row"],
            evaluated=_clock(state["evaluated"]),
            probed=state["probed"],
        )


def _clock(state: dict[str, Any]) -> Clock:
    grown = state["grown"]
    return Clock(**{**state, "grown": None if grown is None else Grown(**grown)})

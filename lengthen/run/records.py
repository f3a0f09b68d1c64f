"""The lines of metrics.jsonl: frozen records, the JSON that is written, the check of what is read.

The fields of a record stand in the order of its line. Losses are in nats per token. None stands for
a number that was not finite, as JSON has none of those, and for what another trainer's log lacks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError, with_config

LARGEST = 1e300  # beyond it the arithmetic of plots and means overflows

Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Number: TypeAlias = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One optimizer step, also one that was not finite."""

    kind: Literal["step"] = "step"
    step: Count  # finished steps, this one included
    tokens: Count | None = None  # trained so far, this step included
    length: Count | None = None  # tokens in each row
    rows: Count | None = None
    loss: Number | None  # mean over the step's tokens
    loss_ratio: Number | None = None  # loss / lowest earlier loss; None: there was none
    grad_norm: Number | None = None  # before clipping
    variance_norm: Number | None = None
    variance_max: Number | None = None
    largest_logit: Number | None = None  # of one layer's attention; None: not measured
    update_rms_decayed: Number | None = None  # of Adam's update, before rate and decay
    update_rms_undecayed: Number | None = None
    update_rms_muon: Number | None = None  # of Muon's, likewise; None: it has no matrices
    lr: Number | None = None
    joined: Number | None = None  # share of the tokens in rows of more than one piece
    seconds: Number | None = None  # of training so far
    finite: bool = True  # False: the weights did not change

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient were finite."""
        return self.finite and self.loss is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRecord:
    """The validation loss at full length."""

    kind: Literal["eval"] = "eval"
    step: Count
    tokens: Count | None = None
    seconds: Number | None = None
    split: str = "valid"
    loss: Number | None
    perplexity: Annotated[float, Field(allow_inf_nan=False)] | None = None
    side_tokens: Count | None = None  # that this measurement read; in no other count
    side_seconds: Number | None = None

    @property
    def is_finite(self) -> bool:
        """Whether the loss and its perplexity are finite."""
        return self.loss is not None and self.perplexity is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRecord:
    """The loss of the same few full-length sequences, and its ratio to the lowest earlier one."""

    kind: Literal["probe"] = "probe"
    step: Count
    tokens: Count | None = None
    seconds: Number | None = None
    loss: Number | None
    loss_ratio: Number | None = None
    side_tokens: Count | None = None
    side_seconds: Number | None = None

    @property
    def is_finite(self) -> bool:
        """Whether the loss was finite."""
        return self.loss is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationRecord:
    """The loss that an adaptive pacing observed at its length, and what it decided."""

    kind: Literal["observation"] = "observation"
    step: Count
    tokens: Count
    seconds: Number | None = None
    length: Count  # of the steps so far, tokens
    loss: Number | None
    next_length: Count  # of the steps from here on
    lowest: Number | None = None  # loss observed at this length before; None: this is the first
    calm: Count  # observations in a row, this one included, that were not above the lowest
    steps_at_length: Count  # so far
    forced: bool = False  # it grew because of pacing.max_hold
    side_tokens: Count | None = None
    side_seconds: Number | None = None

    @property
    def grew(self) -> bool:
        """Whether the length changed."""
        return self.next_length != self.length


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is no measurement; docs/files.md lists the names and their facts."""

    name: str
    step: int
    tokens: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


Measurement: TypeAlias = StepRecord | EvalRecord | ProbeRecord | ObservationRecord
Record: TypeAlias = Measurement | Event

# In some steps alone.
MEASURED = ("largest_logit", "update_rms_decayed", "update_rms_undecayed", "update_rms_muon")
ABSENT = {
    "finite": True,
    **dict.fromkeys(("side_tokens", "side_seconds", *MEASURED)),
}  # not written


def to_json(record: Record) -> dict[str, Any]:
    """Return the object of a record's line, its keys in their order."""
    if isinstance(record, Event):
        place = {"step": record.step, "tokens": record.tokens}
        return {"kind": "event", "event": record.name, **place, **record.facts}
    values = ((one.name, getattr(record, one.name)) for one in fields(record))
    return {name: value for name, value in values if ABSENT.get(name, ...) is not value}


@with_config(extra="allow")
@dataclass(kw_only=True)
class _EventLine:
    kind: Literal["event"]
    event: str
    step: Count
    tokens: Count | None = None


_LINE: TypeAdapter[Measurement | _EventLine] = TypeAdapter(
    Annotated[Measurement | _EventLine, Field(discriminator="kind")]
)


def from_json(line: bytes) -> Record | None:
    """Return the record of one whole line; None for a line that is cut, foreign or damaged.

    Fields that no record has are ignored; an event keeps them as facts.
    """
    if not line.endswith(b"\n"):
        return None
    try:
        record = _LINE.validate_json(line, strict=True)
    except ValidationError:
        return None
    if not isinstance(record, _EventLine):
        return record
    known = {one.name for one in fields(record)}
    facts = {name: value for name, value in vars(record).items() if name not in known}
    return Event(record.event, record.step, record.tokens, facts)

"""The lines of metrics.jsonl: written key by key, read whole or not at all."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.run.records import (
    EvalRecord,
    Event,
    ObservationRecord,
    ProbeRecord,
    Record,
    StepRecord,
    from_json,
    to_json,
)
from tests.fuzz.spoiled import json_values

AT: dict[str, Any] = {"step": 3, "tokens": 64, "seconds": 0.5}
SIDE: dict[str, Any] = {"side_tokens": 8, "side_seconds": 0.25}
RECORDS: list[tuple[Record, str]] = [
    (
        StepRecord(**AT, length=8, rows=4, loss=5.0, lr=0.1, joined=0.0),
        "kind step tokens length rows loss loss_ratio grad_norm variance_norm variance_max lr "
        "joined seconds",
    ),
    (
        StepRecord(**AT, loss=None, finite=False),
        "kind step tokens length rows loss loss_ratio grad_norm variance_norm variance_max lr "
        "joined seconds finite",
    ),
    (
        EvalRecord(**AT, **SIDE, loss=5.0, perplexity=math.exp(5.0)),
        "kind step tokens seconds split loss perplexity side_tokens side_seconds",
    ),
    (ProbeRecord(**AT, loss=None), "kind step tokens seconds loss loss_ratio"),
    (
        ObservationRecord(
            **AT, **SIDE, length=8, loss=5.0, next_length=16, calm=2, steps_at_length=4
        ),
        "kind step tokens seconds length loss next_length lowest calm steps_at_length forced "
        "side_tokens side_seconds",
    ),
    (Event("note", 3, 64, {"text": "a"}), "kind event step tokens text"),
]


def read(values: object) -> Record | None:
    return from_json(json.dumps(values).encode() + b"\n")


@pytest.mark.parametrize(("record", "keys"), RECORDS)
def test_a_record_is_written_in_the_order_of_its_fields_and_read_back(
    record: Record, keys: str
) -> None:
    line = to_json(record)
    assert list(line) == keys.split()
    assert read(line) == record


@pytest.mark.parametrize(("record", "keys"), RECORDS)
def test_fields_that_nobody_knows_are_ignored_but_an_event_keeps_them(
    record: Record, keys: str
) -> None:
    found = read({**to_json(record), "mood": {"calm": True}})
    if isinstance(found, Event):
        assert found.facts["mood"] == {"calm": True}
    else:
        assert found == record


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind":"step","step":1,"loss":5.0}',  # without its end
        b"[1]\n",
        b"3\n",
        b"[" * 5000 + b"\n",
        b"\0" * 9 + b"\n",
        b'{"no":"kind"}\n',
        b'{"kind":["step"],"step":1,"loss":5.0}\n',
        b'{"kind":"constellation","step":1}\n',
        b'{"kind":"step","step":1}\n',  # no loss
        b'{"kind":"step","loss":5.0}\n',
        b'{"kind":"event","step":1}\n',
        b'{"kind":"event","event":"\xff","step":1}\n',
    ],
)
def test_a_line_that_is_no_record_is_refused(line: bytes) -> None:
    assert from_json(line) is None


@pytest.mark.parametrize("value", [True, "5.0", [5], math.nan, math.inf, 1e301, 10**400])
@pytest.mark.parametrize("field", ["step", "tokens", "loss", "lr"])
def test_a_number_that_is_none_refuses_its_line(field: str, value: object) -> None:
    assert read({"kind": "step", "step": 1, "loss": 5.0, field: value}) is None


def test_a_count_is_whole_and_not_negative() -> None:
    for value in (-1, 1.0, 2**63, None):
        assert read({"kind": "step", "step": value, "loss": 5.0}) is None
    assert read({"kind": "step", "step": 2**63 - 1, "loss": None}) is not None


@given(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["step", "eval", "probe", "observation", "event"])},
        optional=dict.fromkeys(
            ["step", "tokens", "length", "loss", "finite", "event"], json_values
        ),
    )
)
def test_no_line_however_odd_is_a_traceback(line: dict[str, Any]) -> None:
    read(line)

"""The table of what adaptive pacings decided: why each length ended, short for any run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.core.pacing import Adaptive
from lengthen.reporting.decisions import ROWS, decisions, table
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.text import lines
from lengthen.run.directory import Metrics, Record
from tests.reporting.logs import run

CALM = [5.0, 4.9]  # two observations that let a length grow


def looks(pacing: Adaptive, losses: Sequence[float]) -> Iterator[Record]:
    """Yield what a run logs that observes these losses, one after every step."""
    state = pacing.begin()
    for step, loss in enumerate(losses, 1):
        if not pacing.observes(state, step):
            continue
        before, state = state, pacing.next(state, step, loss)
        yield {
            "kind": "observation",
            "step": step,
            "length": before.value,
            "loss": loss if math.isfinite(loss) else None,
            "next_length": state.value,
        }
        if state.value > before.value:
            moment = {"kind": "event", "event": "length", "step": step}
            yield {**moment, "length": state.value, "held": step - before.since}
        yield {"kind": "event", "event": "saved", "step": step, "name": f"step-{step}"}


def adaptive(losses: Sequence[float], name: str = "a") -> NamedRun:
    pacing = Adaptive(start=8, end=1024, every=1, max_hold=4)
    return NamedRun(name, Metrics(tuple(looks(pacing, losses)), 0), {}, {"pacing": asdict(pacing)})


def rows(*runs: NamedRun) -> Sequence[tuple[str, ...]]:
    found = table(runs)
    assert found is not None
    return found.rows


def test_each_growth_has_its_reason_and_the_last_row_says_where_the_run_is() -> None:
    spiky = [5.0, 4.9, 5.0, 6.0, math.nan, 5.5, 4.8]
    assert rows(adaptive(spiky)) == (
        ("a", "2", "8", "16", "2", "4.9000", "5.0000", "calm"),
        ("a", "6", "16", "24", "4", "5.5000", "5.0000", "forced"),
        ("a", "7", "24", "24", "1", "4.8000", "-", "not yet"),
    )


def test_a_loss_that_is_not_finite_is_said() -> None:
    assert rows(adaptive([math.nan] * 4)) == (
        ("a", "4", "8", "16", "4", "not finite", "-", "forced"),
    )


def test_without_the_configuration_nobody_knows_whether_a_growth_was_forced() -> None:
    known = adaptive(CALM * 20)
    unknown = rows(NamedRun("a", known.metrics, {}, {}))
    assert {row[-1] for row in unknown} == {"-"}


@pytest.mark.parametrize("growths", [1, 12, 13, 14, 120])
def test_of_many_growths_the_first_and_the_last_are_shown(
    growths: int,
) -> None:
    shown = rows(adaptive(CALM * growths))
    steps = [row[1] for row in shown]
    every = [str(2 * number) for number in range(1, growths + 1)]
    assert steps == (every if growths <= ROWS + 1 else [*every[:6], *every[-6:]])


def test_many_runs_show_fewer_growths_each() -> None:
    shown = rows(*(adaptive(CALM * 40, name=str(number)) for number in range(8)))
    assert len(shown) == 8 * 2
    assert [row[0] for row in shown[:3]] == ["0", "0", "1"]


def test_the_text_of_a_report_has_the_table_where_a_run_adapts() -> None:
    looked = adaptive(CALM).metrics.records
    plain = run("plain")
    adapts = NamedRun("a", Metrics((*plain.metrics.records, *looked), 0), {}, {})
    assert table([adapts]) in list(lines([plain, adapts]))
    assert table([plain]) is None


@given(
    st.lists(st.floats(1, 9) | st.just(math.nan), max_size=60),
    st.integers(1, 3),
    st.integers(1, 5),
)
def test_the_log_alone_gives_back_what_the_pacing_knew(
    losses: list[float], patience: int, max_hold: int
) -> None:
    settings: dict[str, Any] = {"start": 8, "end": 64, "every": 1}
    pacing = Adaptive(**settings, patience=patience, max_hold=max_hold)
    state = pacing.begin()
    for one in decisions(Metrics(tuple(looks(pacing, losses)), 0)):
        assert (one.length, one.best) == (state.value, state.best)
        assert one.lasted == one.step - state.since
        state = pacing.next(state, int(one.step), math.nan if one.loss is None else one.loss)
        assert one.next_length == state.value
        assert one.grew or one.calm == state.calm

"""The table of what adaptive pacings decided: why each length ended, short for any run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pytest

from lengthen.core.pacing import Adaptive
from lengthen.reporting.decisions import ROWS, table
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.text import lines
from lengthen.run.metrics import Metrics
from tests.logs import Line, metrics
from tests.reporting.logs import run

CALM = [5.0, 4.9]  # two observations that let a length grow


def looks(pacing: Adaptive, losses: Sequence[float]) -> Iterator[Line]:
    """Yield what a run logs that observes these losses, one after every step."""
    state = pacing.begin()
    for step, loss in enumerate(losses, 1):
        if not pacing.observes(state, step):
            continue
        before, state = state, pacing.next(state, step, loss)
        yield {
            "kind": "observation",
            "step": step,
            "tokens": 64 * step,
            "length": before.value,
            "loss": loss if math.isfinite(loss) else None,
            "next_length": state.value,
            "lowest": before.lowest,
            "calm": (calm := pacing.calm(before, loss)),
            "steps_at_length": step - before.since,
            "forced": state.value > before.value and calm < pacing.patience,
        }
        if state.value > before.value:
            moment = {"kind": "event", "event": "length", "step": step}
            yield {**moment, "length": state.value, "steps_at_length": step - before.since}
        yield {"kind": "event", "event": "saved", "step": step, "name": f"step-{step}"}


def adaptive(losses: Sequence[float], name: str = "a") -> NamedRun:
    pacing = Adaptive(start=8, end=1024, every=1, max_hold=4)
    return NamedRun(name, metrics(*looks(pacing, losses)), {}, {"pacing": asdict(pacing)})


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

"""What metrics say: spikes, correlations, times to a loss, a verdict; from any log, to any byte."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lengthen.analysis import summary as analysis
from lengthen.analysis.summary import (
    QUANTITIES,
    best_loss,
    first_at_or_below,
    must_be_comparable,
    summarise,
    verdict_line,
    why_diverged,
)
from lengthen.run.metrics import read_metrics
from lengthen.util.errors import DataError
from tests.logs import Line, bad, evaluation, metrics, probe, skipped, step

LOOKS = [evaluation(1, 6.0), evaluation(2, None), evaluation(3, 5.5), evaluation(4, 5.8)]
EVALUATIONS = metrics(*LOOKS).evaluations


def test_a_loss_is_reached_at_the_first_evaluation_not_above_it() -> None:
    reached = first_at_or_below(EVALUATIONS, 5.9)
    assert reached is not None
    assert reached.tokens == 300
    assert first_at_or_below(EVALUATIONS, 5.4) is None


def test_the_best_loss_is_the_lowest_finite_one() -> None:
    assert best_loss(EVALUATIONS) == 5.5
    assert best_loss(metrics(evaluation(1, None)).evaluations) is None


@given(seed=st.integers(0, 2**32), size=st.integers(8, 200), missing=st.floats(0, 0.9))
def test_pearson_is_scipys_over_the_finite_pairs_of_a_log(
    seed: int, size: int, missing: float
) -> None:
    rng = np.random.default_rng(seed)
    names = ("loss_ratio", *QUANTITIES)
    values = rng.lognormal(size=(size, len(names)))
    values[rng.random(values.shape) < missing] = np.nan
    rows = [dict(zip(names, row, strict=True)) for row in values.tolist()]
    shown = [{name: None if math.isnan(v) else v for name, v in row.items()} for row in rows]
    log = metrics(*(step(i + 1, **fields) for i, fields in enumerate(shown)))
    for found in summarise(log).correlations:
        x = values[: size - found.lag, names.index(found.quantity)]
        y = values[found.lag :, 0]
        finite = ~np.isnan(x) & ~np.isnan(y)
        if finite.sum() < 3:
            assert found.correlation is None
            continue
        assert found.correlation is not None
        r, p = stats.pearsonr(x[finite], y[finite])
        assert found.correlation.r == pytest.approx(r, rel=1e-9, abs=1e-12)
        # The p of a correlation near 1 has only as many digits as 1 - r^2 has.
        assert found.correlation.p == pytest.approx(p, rel=1e-9 + 1e-12 / (1 - r**2))
        assert found.correlation.n == finite.sum()


def test_a_quantity_that_never_changes_or_is_not_logged_has_no_correlation() -> None:
    log = metrics(*(step(n, 1 + n / 9, variance_norm=2.0, grad_norm=float(n)) for n in range(1, 9)))
    found = {(c.quantity, c.lag): c.correlation for c in summarise(log).correlations}
    assert found["variance_norm", 0] is None
    assert found["variance_max", 1] is None
    assert found["grad_norm", 0] is not None


def test_a_variance_that_comes_one_step_before_its_spikes_shows_at_lag_1_alone() -> None:
    high = {n for n in range(1, 200) if n % 17 == 0}
    log = metrics(
        *(
            step(n, 2.0 if n - 1 in high else 1.0, variance_norm=float(n in high))
            for n in range(200)
        )
    )
    norms = [c for c in summarise(log).correlations if c.quantity == "variance_norm"]
    found = {c.lag: c.correlation for c in norms}
    assert found[1] is not None
    assert found[0] is not None
    assert found[1].r == pytest.approx(1.0)
    assert abs(found[0].r) < 0.2


def test_f50_a_log_cut_at_any_byte_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    records = [
        step(1, None),
        step(2, 1.05),
        probe(2, 1.3),
        step(3, 1.4),
        evaluation(3, 5.0),
        bad(4),
    ]
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    whole = b"".join(lines)
    path = tmp_path / "metrics.jsonl"
    for size in range(len(lines[0]), len(whole) + 1):
        path.write_bytes(whole[:size])
        complete = whole[:size].count(b"\n")
        assert summarise(read_metrics(path)) == summarise(metrics(*records[:complete]))


def test_f54_a_growing_log_says_more_each_time(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for number in range(1, 30):
        with path.open("a") as file:
            file.write(json.dumps(step(number, 2.0 if number % 7 == 0 else 1.0)) + '\n{"kind":"st')
        summary = summarise(read_metrics(path))
        assert (summary.steps, summary.ratios.above_papers) == (number, number // 7)
        path.write_bytes(path.read_bytes()[: -len('{"kind":"st')])


def test_f54_a_run_without_steps_is_refused() -> None:
    with pytest.raises(DataError, match="^a run without steps$"):
        summarise(metrics(probe(1)))


def test_a_log_of_evaluations_alone_says_nothing_of_stability() -> None:
    summary = summarise(metrics(evaluation(1, 5.0), evaluation(2, 4.0)))
    assert (summary.steps, summary.last_loss, summary.judged_by) == (2, 4.0, "nothing")
    assert verdict_line(summary) == "no training loss is logged, which could tell its stability"


def test_a_summary_has_the_clock_the_losses_and_what_was_spent_apart() -> None:
    apart = {"side_tokens": 50, "side_seconds": 0.25}
    summary = summarise(
        metrics(
            *(step(n) for n in (1, 2, 3)),
            *({**record, **apart} for record in LOOKS),
            probe(2, **apart),
            probe(3),
            unreadable=2,
        )
    )
    assert (summary.steps, summary.tokens, summary.seconds) == (3, 300, 1.5)
    assert (summary.last_loss, summary.best_loss, summary.best_step) == (5.8, 5.5, 3)
    assert summary.evaluating == analysis.Side(4, 200, 1.0)
    assert summary.probing == analysis.Side(2, 50, 0.25)
    assert summary.unreadable == 2
    old = summarise(metrics(step(1), evaluation(1, 5.0)))
    assert (old.evaluating, old.probing) == (
        analysis.Side(1, None, None),
        analysis.Side(0, None, None),
    )


CALM = [step(1, None), step(2, 0.9), step(3, 1.02)]
ROUGH = [step(1, None), step(2, 1.57, length=256), step(3, 1.21, length=256), step(4)]
PROBED = [probe(1, None), probe(2, 1.03), probe(3, 0.9)]
VERDICTS = {
    "stable: the probe never rose above 1.2 times its lowest (largest 1.03 at step 2); "
    "no step of 3 above 1.2, largest ratio 1.02 at step 3": CALM + PROBED,
    "stable: the probe never rose above 1.2 times its lowest (largest 1.03 at step 2); "
    "2 steps of 4 above 1.2, worst 1.57 at step 2 (length 256), "
    "1 of them at a changed length or with joined rows": ROUGH + PROBED,
    "unstable: 2 steps of 4 above 1.2, worst 1.57 at step 2 (length 256), "
    "1 of them at a changed length or with joined rows; "
    "the probe's ratio reached 1.31 at step 3": [*ROUGH, probe(2, None), probe(3, 1.31)],
    "unstable: the probe's ratio reached 1.31 at step 3; "
    "no step of 3 above 1.2, largest ratio 1.02 at step 3": [*CALM, probe(2, None), probe(3, 1.31)],
    "unstable: the probe was not finite at step 3; no step of 3 above 1.2, "
    "largest ratio 1.02 at step 3": [*CALM, probe(3, None, loss=None)],
    "unstable: 1 step of 4 above 1.2, worst not finite at step 3 (length 64); "
    "the probe never rose above 1.2 times its lowest (largest 1.03 at step 2)": [
        *CALM[:2], bad(3), step(4), *PROBED
    ],
    "stable, judged by the steps for want of a probe's ratio: "
    "no step of 3 above 1.2, largest ratio 1.02 at step 3": [*CALM, probe(3, None)],
    "unstable, judged by the steps for want of a probe's ratio: "
    "1 step of 1 above 1.2, worst 1.30 at step 1 (length 64)": [step(1, 1.3)],
    "stable, judged by the steps for want of a probe's ratio: "
    "no step of 1 above 1.2, and none has a ratio": CALM[:1],
    "diverged: the last step, 4, is not finite; unstable, judged by the steps for want of a "
    "probe's ratio: 1 step of 4 above 1.2, worst not finite at step 4 (length 64)": [*CALM, bad(4)],
    "diverged: the last validation loss is not finite; "
    "stable, judged by the steps for want of a probe's ratio: no step of 3 above 1.2, "
    "largest ratio 1.02 at step 3": [*CALM, evaluation(2, 5.0), evaluation(3, None)],
}  # fmt: skip


@pytest.mark.parametrize(("line", "records"), VERDICTS.items())
def test_a_verdict_is_one_plain_sentence_that_agrees_with_the_summary(
    line: str, records: list[Line]
) -> None:
    summary = summarise(metrics(*records))
    assert verdict_line(summary) == line
    assert bool(summary.why_diverged) == line.startswith("diverged")
    assert summary.stable == (" stable" in f" {line}")
    assert summary.judged_by == ("steps" if "for want of" in line else "probe")


def test_a_validation_loss_that_rises_again_is_overfitting_and_no_divergence() -> None:
    assert not summarise(metrics(*CALM, evaluation(2, 5.0), evaluation(3, 9.0))).why_diverged


SKIPPED_LAST = [*CALM, bad(4)]
LAST_STEP = "the last step, 4, is not finite"
LAST_LOSS = "the last validation loss is not finite"


@pytest.mark.parametrize(
    ("records", "why"),
    [
        # An evaluation after the last step is of the weights at the end: it alone decides.
        ([*SKIPPED_LAST, evaluation(4, 4.9)], ""),
        ([evaluation(4, 4.9), *reversed(SKIPPED_LAST)], ""),
        ([*SKIPPED_LAST, skipped(4, diverged=True), evaluation(4, 4.9)], ""),
        ([*SKIPPED_LAST, evaluation(4, None)], LAST_LOSS),
        ([*CALM, step(4), evaluation(3, 5.0), evaluation(4, None)], LAST_LOSS),
        # Without one the last step decides, unless the trainer continued after it.
        ([*SKIPPED_LAST, evaluation(3, 4.9)], LAST_STEP),
        ([*SKIPPED_LAST, skipped(4, diverged=True), evaluation(3, 4.9)], LAST_STEP),
        ([*SKIPPED_LAST, skipped(4, diverged=False), evaluation(3, 4.9)], ""),
        ([*CALM[:2], bad(3), skipped(3, diverged=False), bad(4)], LAST_STEP),
        ([bad(3), skipped(3, diverged=True), step(4)], ""),
        ([step(1, grad_norm=None, finite=False)], "the last step, 1, is not finite"),
        # An older evaluation that was not finite is no better for the steps after it.
        ([*CALM, evaluation(2, None)], LAST_LOSS),
    ],
)
def test_a_run_diverged_where_its_weights_at_the_end_give_no_finite_loss(
    records: list[Line], why: str
) -> None:
    log = metrics(*records)
    assert why_diverged(log) == summarise(log).why_diverged == why


SHA = {"tokenizer": "a1", "valid": "b1"}


@pytest.mark.parametrize(
    ("field", "things"), [("tokenizer", "tokenizers"), ("valid", "validation sets")]
)
def test_runs_that_differ_in_tokenizer_or_validation_set_are_not_compared(
    field: str, things: str
) -> None:
    with pytest.raises(DataError) as caught:
        must_be_comparable({"a": SHA, "foreign": {}, "b": SHA, "c": SHA | {field: "other"}})
    assert str(caught.value) == (
        f"not comparable: a and c have different {things} (SHA-256 in environment.json); "
        "report them apart"
    )


def test_analysis_needs_no_torch() -> None:
    code = "import sys, lengthen.reporting.text; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""The text of a report: a block for each run, then tables with steps and probe in each."""

from typing import Any

import pytest

from lengthen.reporting.gather import NamedRun
from lengthen.reporting.text import CALM, lines
from lengthen.util.tables import Table
from tests.logs import Line, metrics, observation

SAME: dict[str, Any] = {"tokenizer": "a1", "valid": "b1"}


def step(number: int, ratio: float | None = 1.0, **more: object) -> Line:
    counters = {"step": number, "tokens": 1000 * number, "seconds": 0.5 * number, "length": 64}
    return {"kind": "step", **counters, "loss": 5.0, "loss_ratio": ratio, **more}


def evaluation(number: int, loss: float) -> Line:
    side = {"side_tokens": 40, "side_seconds": 0.25}
    counters = {"step": number, "tokens": 1000 * number, "seconds": 0.5 * number}
    return {"kind": "eval", **counters, "loss": loss, **side}


def probe(number: int, ratio: float | None) -> Line:
    side = {"side_tokens": 8, "side_seconds": 0.125}
    return {"kind": "probe", "step": number, "loss": 5.0, "loss_ratio": ratio, **side}


def named(
    name: str, *records: Line, environment: dict[str, Any] = SAME, unreadable: int = 0
) -> NamedRun:
    return NamedRun(name, metrics(*records, unreadable=unreadable), environment, {})


BASELINE = named(
    "baseline",
    step(1, None, variance_norm=1.0),
    step(2, 1.57, variance_norm=3.0),
    step(3, 1.12, variance_norm=2.0),
    step(4, 0.9, variance_norm=0.5),
    evaluation(2, 5.5),
    evaluation(4, 5.0),
    probe(2, None),
    probe(4, 1.31),
    unreadable=2,
)
SLW = named("SLW", step(1, None), step(2), evaluation(1, 5.2), evaluation(2, 4.9), probe(2, None))
FOREIGN = named("theirs.csv", {"kind": "step", "step": 1, "loss": 5.0}, environment={})


def shown(*runs: NamedRun, losses: tuple[float, ...] = ()) -> tuple[list[str], dict[str, Table]]:
    found = list(lines(runs, losses))
    texts = [entry for entry in found if isinstance(entry, str)]
    return texts, {entry.title: entry for entry in found if isinstance(entry, Table)}


def table(title: str, *runs: NamedRun, losses: tuple[float, ...] = ()) -> Table:
    return next(t for name, t in shown(*runs, losses=losses)[1].items() if name.startswith(title))


def test_a_run_is_a_block_with_its_verdict_and_what_it_cost() -> None:
    texts, _ = shown(BASELINE)
    assert texts == [
        "baseline: unstable: 1 step of 4 above 1.2, worst 1.57 at step 2 (length 64); "
        "the probe's ratio reached 1.31 at step 4",
        "  up to step 4: 4,000 tokens, 2.0 s of training",
        "  validation loss 5.000, best 5.000 at step 4",
        "  apart from training: 2 evaluations (80 tokens, 0.5 s), 2 probes (16 tokens, 0.2 s)",
        "  unreadable lines of the log, left out: 2",
    ]


def test_what_an_adaptive_pacing_observed_is_counted_apart_too() -> None:
    side = {"side_tokens": 256, "side_seconds": 0.5}
    looks = [{**observation(n, 8, 8, 5.0), **side} for n in (1, 2)]
    texts, _ = shown(named("adaptive", step(1), *looks))
    assert "  apart from training: 2 observations (512 tokens, 1.0 s)" in texts


def test_what_a_foreign_log_lacks_is_said() -> None:
    texts, tables = shown(FOREIGN)
    assert texts[1:] == [
        "  up to step 1: tokens not logged, seconds not logged of training",
        CALM,
    ]
    assert {title.split(":")[0] for title in tables} == {
        "Final losses", "Instability", "What goes with the loss ratio",
    }  # fmt: skip


def test_steps_and_probe_stand_side_by_side_in_the_table_of_instability() -> None:
    instability = table("Instability", BASELINE, SLW, FOREIGN)
    assert instability.columns == (
        "run", "count", "> 1.1", "> 1.2", "> 1.5", "share", "largest", "marked", "stable",
    )  # fmt: skip
    assert instability.rows == (
        ("baseline", "4 | 2", "2 | 1", "1 | 1", "1 | 0", "25.0 %", "1.57 | 1.31", "0", "no"),
        ("SLW", "2 | 1", "0 | 0", "0 | 0", "0 | 0", "0.0 %", "1.00 | -", "0", "yes *"),
        ("theirs.csv", "1 | 0", "0 | -", "0 | -", "0 | -", "0.0 %", "- | -", "0", "yes *"),
    )


def test_a_run_that_ended_not_finite_is_called_diverged() -> None:
    run = named("r", step(1, None), step(2, None, loss=None, finite=False), probe(2, 1.0))
    row = table("Instability", run).rows[0]
    assert row[6:] == ("not finite | 1.00", "0", "diverged")
    assert table("Worst spikes", run).rows[0][4] == "not finite"


def test_spikes_of_steps_and_probe_stand_in_one_table() -> None:
    assert table("Worst spikes", BASELINE, SLW).rows == (
        ("baseline, steps", "2", "2,000", "64", "1.57", "2"),
        ("baseline, probe", "4", "-", "-", "1.31", "1"),
    )


@pytest.mark.parametrize(("runs", "each"), [(1, 5), (3, 4), (12, 1), (40, 1)])
def test_many_runs_show_fewer_spikes_each(runs: int, each: int) -> None:
    steps = [step(n, 2.0 if n % 2 else 1.0) for n in range(1, 20)]
    spikes = table("Worst spikes", *(named(f"run {n}", *steps) for n in range(runs)))
    assert len(spikes.rows) == runs * each


def test_correlations_have_r_p_and_the_count_of_pairs() -> None:
    rows = table("What goes with the loss ratio", BASELINE).rows
    assert [row[1:3] for row in rows] == [
        (quantity, lag)
        for quantity in ("variance norm", "variance max", "grad norm")
        for lag in ("0", "1")
    ]
    # The pairs (3, 1.57), (2, 1.12), (0.5, 0.9).
    assert rows[0] == ("baseline", "variance norm", "0", "0.952", "0.2", "3")
    assert rows[2] == ("baseline", "variance max", "0", "-", "-", "-")


def test_the_goal_is_the_best_loss_of_the_first_run_unless_losses_are_given() -> None:
    first = table("First evaluation", BASELINE, SLW)
    assert first.rows == (
        ("baseline", "5.0000", "4", "4,000", "2.0"),
        ("SLW", "5.0000", "2", "2,000", "1.0"),
    )
    assert "the best of baseline" in first.note
    given = table("First evaluation", SLW, BASELINE, losses=(5.5, 4.9))
    assert given.rows == (
        ("SLW", "5.5000", "1", "1,000", "0.5"),
        ("SLW", "4.9000", "2", "2,000", "1.0"),
        ("baseline", "5.5000", "2", "2,000", "1.0"),
        ("baseline", "4.9000", "not reached", "-", "-"),
    )
    assert "the best of" not in given.note


def test_runs_over_two_tokenizers_stand_in_one_table_which_says_so() -> None:
    other = named("other", step(1), evaluation(1, 5.0), environment={"tokenizer": "a2"})
    losses = table("Final losses", BASELINE, other)
    assert [row[0] for row in losses.rows] == ["baseline", "other"]
    assert losses.note.endswith("Tokenizers differ: only bits per byte compare.")
    assert ("other", "5.0000", "not compared", "-", "-") in table("First", BASELINE, other).rows


def test_what_could_not_be_compared_is_noted_but_not_for_a_single_run() -> None:
    notes = [text for text in shown(BASELINE, FOREIGN)[0] if text.startswith("note: ")]
    assert notes == [
        "note: not checked that tokenizers are the same: no record of theirs.csv",
        "note: not checked that validation sets are the same: no record of theirs.csv",
    ]
    assert not any(text.startswith("note: ") for text in shown(FOREIGN)[0])


def test_one_run_alone_is_timed_to_the_losses_that_are_given_and_no_others() -> None:
    assert not any(title.startswith("First evaluation") for title in shown(BASELINE)[1])
    assert table("First evaluation", BASELINE, losses=(5.5,)).rows[0][:2] == ("baseline", "5.5000")


def test_a_brief_text_has_no_correlations() -> None:
    titles = [part.title for part in lines([BASELINE], brief=True) if isinstance(part, Table)]
    assert [title.split(":")[0] for title in titles] == [
        "Final losses", "Instability", "Worst spikes",
    ]  # fmt: skip

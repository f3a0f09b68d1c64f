"""The standard panels: what they show of good, foreign and broken logs."""

from dataclasses import replace

import pytest

from lengthen.reporting.curves import Panel
from lengthen.reporting.gather import NamedRun
from lengthen.reporting.panels import panels_of
from tests.reporting.logs import run, run_of

FAMILY = {"a/0": "a", "a/1": "a"}
TITLES = [
    "Validation perplexity by token",
    "Loss ratio of the steps",
    "Validation perplexity by step",
    "Validation perplexity by second",
    "Training loss, each step at its own length",
    "Loss ratio of the probe, at full length",
    "Variance norm",
    "Variance max",
    "Gradient norm, before clipping",
    "Length",
    "Rows",
    "Tokens per step",
    "Learning rate",
]


def panel(title: str, *runs: NamedRun) -> Panel:
    return {panel.title: panel for panel in panels_of(runs)}[title]


def test_a_log_of_ours_fills_every_panel() -> None:
    panels = panels_of([run("a"), run("b")])
    assert [panel.title for panel in panels] == TITLES
    assert all(curve.points for panel in panels for curve in panel.curves)
    assert {curve.name for panel in panels for curve in panel.curves} == {"a", "b"}


@pytest.mark.parametrize(
    ("title", "x", "first"),
    [
        ("Validation perplexity by step", "step", 10),
        ("Validation perplexity by token", "trained tokens", 5120),
        ("Validation perplexity by second", "seconds of training", 2.5),
        ("Training loss, each step at its own length", "trained tokens", 512),
        ("Learning rate", "step", 1),
    ],
)
def test_a_curve_runs_along_its_clock(title: str, x: str, first: float) -> None:
    shown = panel(title, run("a"))
    assert (shown.x, shown.curves[0].points[0][0]) == (x, first)


def test_loss_ratios_have_the_threshold_and_only_they_do() -> None:
    marked = {p.title: p.threshold for p in panels_of([run("a")]) if p.threshold}
    assert marked == {title: 1.2 for title in TITLES if title.startswith("Loss ratio")}


def test_perplexity_and_variances_are_logarithmic() -> None:
    logs = {panel.title for panel in panels_of([run("a")]) if panel.log_y}
    assert logs == {TITLES[0], *TITLES[2:4], "Variance norm", "Variance max"}


def test_tokens_per_step_are_rows_times_length() -> None:
    assert {y for _, y in panel("Tokens per step", run("a")).curves[0].points} == {512}


def test_runs_of_one_family_share_its_name() -> None:
    panels = {p.title: p for p in panels_of([run("a/0"), run("a/1"), run("b")], FAMILY)}
    assert [curve.key for curve in panels["Loss ratio of the steps"].curves] == ["a", "a", "b"]


def test_a_family_that_was_measured_at_the_same_steps_is_its_mean_in_a_band() -> None:
    low, high = (run(f"a/{seed}", spike=spike) for seed, spike in enumerate((0, 10)))
    mean, other = panels_of([low, high, run("b")], FAMILY)[0].curves
    assert (mean.name, other.name) == ("a, mean of 2", "b")
    assert (len(mean.band), other.band) == (len(other.points), ())


def test_nothing_is_drawn_along_seconds_where_runs_shared_a_machine() -> None:
    alone, beside = run("a"), replace(run("b"), alone=False)
    elsewhere = run("c", environment={"device": "cuda:0, H100"})
    card = run("d", environment={"device": "cuda:1, H100"})
    for runs, drawn in (
        ([alone], True),
        ([elsewhere, card], True),
        ([beside], False),
        ([alone, beside], False),
        ([alone, elsewhere], False),
    ):
        assert ("Validation perplexity by second" in {p.title for p in panels_of(runs)}) is drawn


def test_an_axis_is_logarithmic_where_one_step_would_flatten_the_rest() -> None:
    lines = [{"kind": "step", "step": n, "tokens": 8 * n, "loss": 4 + n / 50} for n in range(50)]
    for height, log in ((5.0, False), (4000.0, True)):
        shown = panel(
            "Training loss, each step at its own length",
            run_of(*lines, {**lines[0], "step": 50, "loss": height}),
        )
        assert shown.log_y is log


def test_a_spike_in_a_long_log_is_shown() -> None:
    curve = panel("Loss ratio of the steps", run("a", 20_000, spike=12_345)).curves[0]
    assert (12_345, 1.75) in curve.points
    assert len(curve.points) <= 2000


def test_a_foreign_log_has_the_panels_that_its_columns_allow() -> None:
    lines = [{"kind": "step", "step": 1, "loss": 5.0}, {"kind": "eval", "step": 1, "loss": 5.0}]
    filled = [p.title for p in panels_of([run_of(*lines)]) if any(c.points for c in p.curves)]
    assert filled == []  # a training loss by tokens needs tokens
    lines = [{"kind": "step", "step": 1, "tokens": 8, "loss": 5.0, "length": 8}]
    filled = [p.title for p in panels_of([run_of(*lines)]) if any(c.points for c in p.curves)]
    assert filled == ["Training loss, each step at its own length", "Length"]


def test_what_is_not_known_has_no_place() -> None:
    lines = [
        {"kind": "step", "step": 1, "tokens": 8, "loss": None},
        {"kind": "step", "step": 2, "loss": 4.0},
        {"kind": "step", "step": 3, "tokens": 24, "loss": 4.0},
    ]
    assert list(panel(TITLES[4], run_of(*lines)).curves[0].points) == [(24, 4.0)]


def test_a_step_that_was_not_finite_is_marked_and_a_missing_ratio_is_not() -> None:
    lines = [
        {"kind": "step", "step": 1, "tokens": 8, "loss": 4.0, "loss_ratio": None},
        {"kind": "step", "step": 2, "tokens": 16, "loss": None, "loss_ratio": None},
        {
            "kind": "step",
            "step": 3,
            "tokens": 24,
            "loss": 4.0,
            "grad_norm": None,
            "finite": False,
            "loss_ratio": 1.0,
        },
    ]
    broken = run_of(*lines)
    assert list(panel("Loss ratio of the steps", broken).curves[0].breaks) == [2]
    assert list(panel(TITLES[4], broken).curves[0].breaks) == [16]
    assert 3 in panel("Gradient norm, before clipping", broken).curves[0].breaks


def test_a_perplexity_too_large_for_a_float_is_marked() -> None:
    line = {"kind": "eval", "step": 5, "loss": 800.0, "perplexity": None}
    assert list(panel(TITLES[2], run_of(line)).curves[0].breaks) == [5]

"""Losses of different text never stand side by side: in no table, in no plot, on no page."""

import math
from pathlib import Path

import pytest

from lengthen.config.schema import Tables
from lengthen.reporting import comparability
from lengthen.reporting.gather import NamedRun, gather
from lengthen.reporting.html import write
from lengthen.reporting.panels import panels_of
from lengthen.reporting.text import lines
from lengthen.run.metrics import Metrics
from lengthen.training.start import resume, train
from lengthen.util.tables import Table
from tests.conftest import Configure
from tests.logs import Line, metrics

VALIDATION = "Validation perplexity by step"
PROBE = "Loss ratio of the probe, at full length"
FIRST = "First evaluation at or below a validation loss"


def run(
    name: str,
    config: Tables | None = None,
    *,
    read: tuple[int, ...] = (),
    probed: int = 0,
    valid: str = "",
) -> NamedRun:
    """A run of two steps and evaluations, the losses falling from 6 to 5."""
    records: list[Line] = []
    for number in (1, 2):
        at = {"step": number, "tokens": 100 * number, "seconds": 1.0 * number}
        loss = 7.0 - number
        side = {"side_tokens": read[min(number, len(read)) - 1]} if read else {}
        probe_side = {"side_tokens": probed} if probed else {}
        figures = {"loss": loss, "perplexity": math.exp(loss), "loss_ratio": 0.9}
        records += [
            {"kind": "step", **at, "length": 8, "rows": 1, **figures},
            {"kind": "eval", **at, **figures, **side},
            {"kind": "probe", **at, **figures, **probe_side},
        ]
    environment = {"tokenizer": "t", "valid": valid} if valid else {}
    return NamedRun(name, metrics(*records), environment, config or {})


def first_at(*runs: NamedRun) -> Table:
    return next(t for t in lines(runs) if isinstance(t, Table) and t.title == FIRST)


def instability(*runs: NamedRun) -> Table:
    return next(t for t in lines(runs) if isinstance(t, Table) and "Instability" in t.title)


def charts(title: str, *runs: NamedRun) -> dict[str, list[str]]:
    return {
        panel.title: [curve.name for curve in panel.curves]
        for panel in panels_of(runs)
        if panel.title.startswith(title)
    }


def told(*runs: NamedRun) -> list[str]:
    return [text for text in lines(runs) if isinstance(text, str) and text.startswith("note: ")]


LENGTHS: list[Tables] = [{"model": {"length": length}} for length in (64, 128)]
PARTS: list[Tables] = [{"evaluation": {"tokens": tokens}} for tokens in (1000, 7000)]


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (run("a", PARTS[0]), run("b", PARTS[1]), ("evaluation.tokens", "1000", "7000")),
        (run("a", LENGTHS[0]), run("b", LENGTHS[1]), ("model.length", "64", "128")),
        (run("a", read=(960,)), run("b", read=(6976,)), ("tokens read", "960", "6,976")),
        # With equal settings a validation part can still be too small for what they ask for.
        (
            run("a", PARTS[1], read=(960,)),
            run("b", PARTS[1], read=(6976,)),
            ("tokens read", "960", "6,976"),
        ),
        (
            run("a", PARTS[0], read=(960,)),
            run("b", PARTS[1], read=(6976,)),
            ("evaluation.tokens", "1000", "7000"),
        ),
    ],
    ids=["part", "length", "logged", "small text", "both"],
)
def test_validation_losses_of_different_text_are_compared_nowhere(
    one: NamedRun, other: NamedRun, names: tuple[str, str, str]
) -> None:
    what, mine, theirs = names
    table = first_at(one, other)
    assert table.rows == (
        ("a", "5.0000", "2", "200", "2.0"),
        ("b", "5.0000", "not compared", "-", "-"),
    )
    assert f"b is not compared with a: {what} {theirs} against {mine}. " in table.note
    assert charts(VALIDATION, one, other) == {
        f"{VALIDATION} ({what} {mine})": ["a"],
        f"{VALIDATION} ({what} {theirs})": ["b"],
    }
    (note,) = told(one, other)[:1]
    assert "b" in note
    assert mine in note
    assert theirs in note


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (run("a", PARTS[0], read=(960,)), run("b", PARTS[0], read=(960,))),
        (run("a", PARTS[0], read=(384,)), run("b", PARTS[1], read=(384,))),
        (run("a", PARTS[0], read=(960,)), run("theirs")),
        (run("a"), run("b", LENGTHS[0], read=(960,))),
    ],
    ids=[
        "alike",
        "all of a small text",
        "a log that does not say",
        "a first run that does not say",
    ],
)
def test_those_of_one_text_stand_side_by_side(one: NamedRun, other: NamedRun) -> None:
    table = first_at(one, other)
    assert [row[2] for row in table.rows] == ["2", "2"]
    assert "not compared" not in table.note
    assert charts(VALIDATION, one, other) == {VALIDATION: [one.name, other.name]}


def test_what_is_not_recorded_joins_one_group_and_makes_no_bridge_between_two() -> None:
    runs = [run("a", PARTS[0]), run("theirs"), run("b", PARTS[1]), run("c", PARTS[1])]
    together = [[one.name for one in members] for _, members in comparability.groups(runs, "eval")]
    assert together == [["a", "theirs"], ["b", "c"]]
    together = [[one.name for one in m] for _, m in comparability.groups(runs[1:], "eval")]
    assert together == [["theirs", "b", "c"]]


def test_plots_that_the_settings_do_not_tell_apart_name_the_tokens_read() -> None:
    runs = [run("a", PARTS[0], read=(960,)), run("b", PARTS[0], read=(512,)), run("c", PARTS[1])]
    part = f"{VALIDATION} (evaluation.tokens"
    assert charts(VALIDATION, *runs) == {
        f"{part} 1000, tokens read 960)": ["a"],
        f"{part} 1000, tokens read 512)": ["b"],
        f"{part} 7000)": ["c"],
    }


def test_a_run_whose_evaluations_changed_on_the_way_compares_with_none() -> None:
    mixed = [run(name, read=(960, 6976)) for name in ("a", "b")]
    assert first_at(run("c", read=(960,)), *mixed).rows[1:] == (
        ("a", "5.0000", "not compared", "-", "-"),
        ("b", "5.0000", "not compared", "-", "-"),
    )
    assert [row[2] for row in first_at(*mixed).rows] == ["2", "not compared"]
    assert list(charts(VALIDATION, mixed[0])) == [VALIDATION]
    assert told(mixed[0]) == [
        "note: a: its evaluations read 960 and 6,976 tokens, so its own losses are not of one text"
    ]


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (run("a", probed=512), run("b", probed=256), ("tokens read 512", "tokens read 256")),
        (run("a", LENGTHS[0]), run("b", LENGTHS[1]), ("model.length 64", "model.length 128")),
    ],
    ids=["K", "length"],
)
def test_probes_of_other_text_have_plots_of_their_own_and_a_note(
    one: NamedRun, other: NamedRun, names: tuple[str, str]
) -> None:
    assert charts(PROBE, one, other) == {
        f"{PROBE} ({n})": [r] for n, r in zip(names, "ab", strict=True)
    }
    table = next(
        t for t in lines([one, other]) if isinstance(t, Table) and "Instability" in t.title
    )
    assert f"Probes are not alike ({names[0]} in a, {names[1]} in b)" in table.note
    assert "not alike" not in instability(one).note


def test_a_page_of_runs_that_nobody_checked_keeps_validation_texts_apart() -> None:
    assert len(charts(VALIDATION, run("a", valid="x" * 64), run("b", valid="y" * 64))) == 2


def test_what_no_log_says_is_noted_as_not_checked() -> None:
    unchecked = "note: not checked that evaluations read the same part of the text: no record of "
    runs = [run("a", PARTS[0]), run("theirs")]
    assert told(*runs)[-3:].count(f"{unchecked}theirs") == 1
    assert told(*runs, run("others"))[-3:].count(f"{unchecked}2 runs, such as theirs") == 1
    without = NamedRun("no evaluation", Metrics(runs[1].metrics.records[:1], 0), {}, {})
    for silent in ([runs[0], without], [runs[0], run("b", PARTS[0])], runs[1:]):
        assert not any(text.startswith(unchecked) for text in told(*silent))


def test_who_looks_more_often_is_named() -> None:
    often, seldom = ({"evaluation": {"every_steps": every}} for every in (5, 50))
    note = first_at(run("a", often), run("b", seldom)).note
    assert "evaluation.every_steps is 5 in a and 50 in b: whoever looks more often gets" in note
    assert "looks more often" not in first_at(run("a", often), run("b", often)).note
    tokens = run("b", {"evaluation": {"every_tokens": 900}})
    assert "evaluation.every_steps is 5 in a and - in b" in first_at(run("a", often), tokens).note


def test_a_real_run_that_was_told_to_read_more_on_the_way_says_so(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(budget={"tokens": 2000}, saving={"every_steps": 4, "keep": 9})
    train(config, tmp_path / "run", quiet=True)
    overrides = {"evaluation": {"tokens": 1024}}
    resume(tmp_path / "run", checkpoint="step-00000008", settings=overrides, quiet=True)
    note, below = told(*gather([tmp_path / "run"]))
    assert "full length is not reached" in below
    assert note.startswith("note: run: its evaluations read 512 and 1,024 tokens")


def test_the_foot_of_a_page_names_what_is_apart(tmp_path: Path) -> None:
    runs = [run("a", PARTS[0]), run("b", PARTS[1])]
    write(tmp_path / "page.html", runs, title="t")
    foot = (tmp_path / "page.html").read_text(encoding="utf-8").partition("<footer>")[2]
    assert "b and a: validation losses of different text, shown apart (evaluation.tokens" in foot

"""Evaluations in the report: a table with chance beside it, and the loss by position."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lengthen.evaluation.results import Curve, Measure, Outcome, Result, write
from lengthen.evaluation.tables import NOTE, figure, tables
from lengthen.reporting.gather import gather
from lengthen.reporting.html import write as write_page
from lengthen.reporting.panels import evaluation_panels
from lengthen.reporting.text import lines
from lengthen.util.disk import Disk
from lengthen.util.tables import Table
from tests.reporting.logs import run

CURVE = Curve("loss by position", "position", (1.0, 2.0, 3.0, 4.0, 5.5, 7.5), (6, 5, 4, 3, 2, 1.5))


def result(
    *measures: Measure,
    task: str = "lambada",
    step: int | None = 1000,
    curves: tuple[Curve, ...] = (),
    notes: tuple[str, ...] = (),
    **options: int,
) -> Result:
    outcome = Outcome(task, 10, 100, 1.0, measures, curves, (), notes)
    return Result(None, step, "fp32", options, outcome)


RIGHT = Measure("accuracy", 0.25678, 0.01234, 0.0)
LOSS = Measure("loss", 2.34567, None, math.log(257))


def first(models: dict[str, list[Result]]) -> Table:
    return tables(models)[0]


def test_models_stand_side_by_side_with_errors_and_chance() -> None:
    table = first({"baseline": [result(RIGHT)], "SLW": [result(LOSS)]})
    assert table.columns == ("", "baseline", "SLW", "chance")
    assert table.rows == (
        ("checkpoint", "1,000", "1,000", ""),
        ("lambada accuracy", "0.257 ± 0.012", "-", "0"),
        ("lambada loss", "-", "2.346", "5.549"),
    )


def test_without_results_there_is_no_table() -> None:
    assert tables({"run": []}) == []
    assert evaluation_panels({"run": []}) == []


def test_the_newest_checkpoint_of_each_question_is_shown_and_of_equal_ones_the_later() -> None:
    old, new, later = (replace(LOSS, value=value) for value in (3.0, 2.0, 1.0))
    shown = first({"run": [result(new, step=20), result(later, step=20), result(old, step=10)]})
    assert shown.rows == (("checkpoint", "20", ""), ("lambada loss", "1.000", "5.549"))


def test_every_checkpoint_of_a_model_has_a_column() -> None:
    shown = first({"run": [result(LOSS, step=1000), result(LOSS, step=20, task="valid")]})
    assert shown.columns == ("", "run", "run", "chance")
    assert shown.rows == (
        ("checkpoint", "20", "1,000", ""),
        ("valid loss", "2.346", "-", "5.549"),
        ("lambada loss", "-", "2.346", "5.549"),
    )
    assert first({"hf": [result(LOSS, step=None)]}).rows[0] == ("checkpoint", "-", "")


def test_options_tell_questions_apart() -> None:
    shown = first({"run": [result(LOSS), result(LOSS, shots=5, seed=0)]})
    names = [row[0] for row in shown.rows]
    assert names == ["checkpoint", "lambada loss", "lambada (shots 5, seed 0) loss"]


STORE = ("store id", "1b3cc00c" + 24 * "0")
OTHER_STORE = ("store id", "77aa0011" + 24 * "0")


def asked(*settings: tuple[str, str], items: int = 10, task: str = "valid", **more: Any) -> Result:
    """A result whose loss is 2.346, to a question with these settings."""
    found = result(LOSS, task=task, curves=(CURVE,), **more)
    return replace(found, outcome=replace(found.outcome, settings=settings, items=items))


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (asked(STORE), asked(OTHER_STORE), ("valid (store 1b3cc00c)", "valid (store 77aa0011)")),
        (asked(STORE), asked(STORE, limit=3), ("valid", "valid (limit 3)")),
        (
            asked(STORE, ("length", "64")),
            asked(STORE, ("length", "128")),
            ("valid (length 64)", "valid (length 128)"),
        ),
        (
            asked(("set SHA-256", 40 * "a"), task="piqa"),
            asked(("set SHA-256", 40 * "b"), task="piqa"),
            ("piqa (set aaaaaaaa)", "piqa (set bbbbbbbb)"),
        ),
        (
            asked(("shots", "5 from train"), task="piqa", shots=5, seed=0),
            asked(("shots", "5 from validation, and not scored"), task="piqa", shots=5, seed=0),
            (
                "piqa (shots 5 from train, seed 0)",
                "piqa (shots 5 from validation, and not scored, seed 0)",
            ),
        ),
        # An answer that is too long for one model's length makes it other items.
        (asked(items=1832), asked(items=1838), ("valid (items 1832)", "valid (items 1838)")),
        (
            asked(STORE),
            replace(asked(STORE), precision="bf16"),
            ("valid (precision fp32)", "valid (precision bf16)"),
        ),
        (
            asked(("lm-eval", "0.4.9"), task="lm-eval:blimp"),
            asked(("lm-eval", "0.4.13"), task="lm-eval:blimp"),
            ("lm-eval:blimp (lm-eval 0.4.9)", "lm-eval:blimp (lm-eval 0.4.13)"),
        ),
    ],
    ids=["store", "limit", "length", "set", "shots", "items", "precision", "library"],
)
@pytest.mark.parametrize("together", [False, True], ids=["two models", "one model"])
def test_answers_to_different_questions_never_share_a_row_or_a_plot(
    one: Result, other: Result, names: tuple[str, str], together: bool
) -> None:
    models = {"a": [one, other]} if together else {"a": [one], "b": [other]}
    measures, *positions = tables(models)
    rows = {row[0]: list(row[1:-1]) for row in measures.rows[1:]}
    mine, theirs = (["2.346"], ["2.346"]) if together else (["2.346", "-"], ["-", "2.346"])
    assert rows == {f"{names[0]} loss": mine, f"{names[1]} loss": theirs}
    titles = [f"{name}: loss by position" for name in names]
    assert [table.title for table in positions] == titles
    assert [(p.title, len(p.curves)) for p in evaluation_panels(models)] == [(t, 1) for t in titles]


def test_a_store_or_a_set_in_another_place_is_the_same_question() -> None:
    here, there = (asked(STORE, ("store", path)) for path in ("here", "there"))
    assert first({"a": [here], "b": [there]}).rows[1:] == (
        ("valid loss", "2.346", "2.346", "5.549"),
    )


def test_where_stores_lie_is_said_only_where_they_are_told_apart() -> None:
    one, other = asked(STORE, ("store", "data/one")), asked(OTHER_STORE, ("store", "data/two"))
    note = f"{NOTE} store 1b3cc00c: data/one. store 77aa0011: data/two."
    assert first({"a": [one], "b": [other]}).note == note
    assert first({"a": [one], "b": [one]}).note == NOTE


def test_tokenizers_share_the_perplexity_of_words_and_not_that_of_tokens() -> None:
    word, token = Measure("word perplexity", 30.0), Measure("token perplexity", 20.0)
    models = {}
    for name in ("a", "b"):
        own = result(word, token, task="wikitext103")
        settings = (("tokens", "9"), ("tokens SHA-256", 64 * name))
        models[name] = [replace(own, outcome=replace(own.outcome, settings=settings))]
    assert first(models).rows[1:] == (
        ("wikitext103 word perplexity", "30.00", "30.00", "-"),
        ("wikitext103 (tokens aaaaaaaa) token perplexity", "20.00", "-", "-"),
        ("wikitext103 (tokens bbbbbbbb) token perplexity", "-", "20.00", "-"),
    )


def test_curves_of_several_checkpoints_of_a_model_name_them() -> None:
    models = {"a": [asked(STORE, step=60), asked(STORE, step=30, limit=3)], "b": [asked(STORE)]}
    assert [[row[0] for row in table.rows] for table in tables(models)[1:]] == [
        ["a, checkpoint 30"],
        ["a, checkpoint 60", "b"],
    ]
    assert [[(c.name, c.key) for c in panel.curves] for panel in evaluation_panels(models)] == [
        [("a, checkpoint 30", "a")],
        [("a, checkpoint 60", "a"), ("b", "b")],
    ]


def test_chance_is_a_range_where_models_differ_in_it() -> None:
    other = replace(LOSS, chance=math.log(8192))
    shown = first({"a": [result(other)], "b": [result(LOSS)], "c": [result(Measure("loss", 1.0))]})
    assert shown.rows[1][-1] == "5.549 to 9.011"


def test_many_models_are_rows() -> None:
    shown = first({f"run {number}": [result(LOSS)] for number in range(6)})
    assert shown.columns == ("", "checkpoint", "lambada loss")
    assert shown.rows[0] == ("run 0", "1,000", "2.346")
    assert shown.rows[-1] == ("chance", "", "5.549")


def test_conventions_stand_below_the_table_once() -> None:
    noted = result(LOSS, notes=("words are split",))
    assert first({"a": [noted], "b": [noted]}).note == f"{NOTE} lambada: words are split."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.25, "0.2500"),
        (-3.14159, "-3.142"),
        (290.23, "290.2"),
        (1234.5, "1,234"),
        (3_597_138.0, "3,597,138"),
        (2.5e7, "2.5e+07"),
        (4.8e-8, "4.8e-08"),
        (math.inf, "not finite"),
        (math.nan, "not finite"),
    ],
)
def test_figures_have_four_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (290.23, 5.56, "290.2 ± 5.6"),
        (3597.0, 279.4, "3,597 ± 279"),
        (0.0, 0.0, "0 ± 0"),
        (-0.0002, 0.011, "0.000 ± 0.011"),
        (6.3e9, 8.2e9, "6.3e+09 ± 8.2e+09"),
        (4.4e7, 3.9e6, "4.4e+07 ± 3.9e+06"),
        (math.nan, math.nan, "not finite ± not finite"),
    ],
)
def test_a_value_has_the_digits_that_its_error_leaves(
    value: float, error: float, text: str
) -> None:
    shown = first({"run": [result(Measure("loss", value, error))]})
    assert shown.rows[1] == ("lambada loss", text, "-")


def test_the_loss_by_position_is_a_table_of_some_bands() -> None:
    shorter = Curve("loss by position", "position", (1.0, 2.0), (6.5, 5.5))
    _, shown = tables(
        {"a": [result(LOSS, curves=(CURVE,))], "b": [result(LOSS, curves=(shorter,))]}
    )
    assert shown.title == "lambada: loss by position"
    assert shown.columns == ("model", "2", "8")
    assert shown.rows == (("a", "5.000", "1.500"), ("b", "5.500", "-"))
    assert shown.note == "By position: means over bands around these."


def test_the_plot_has_all_models_along_a_logarithmic_axis() -> None:
    spoiled = replace(CURVE, values=(6, 5, math.nan, 3, 2, 1.5))
    models = {
        "a": [result(LOSS, curves=(CURVE,))],
        "b": [result(LOSS, curves=(spoiled,))],
    }
    (panel,) = evaluation_panels(models)
    assert (panel.title, panel.x, panel.log_x) == ("lambada: loss by position", "position", True)
    assert panel.curves[0].points == list(zip(CURVE.at, CURVE.values, strict=True))
    assert len(panel.curves[1].points) == 5
    assert panel.curves[1].breaks == [3.0]


HOSTILE = "</script><b>\x1b[31m"


def hostile() -> Result:
    curve = replace(CURVE, name=HOSTILE, axis=HOSTILE)
    measure = replace(LOSS, name=HOSTILE)
    return result(measure, task=HOSTILE, curves=(curve,), notes=(HOSTILE,))


def test_f49_nothing_in_a_file_steers_the_terminal_or_the_page(tmp_path: Path) -> None:
    models = {"run": [hostile()]}
    for table in tables(models):
        assert "\x1b" not in "".join(
            [table.title, table.note, *table.columns, *map(str, table.rows)]
        )
    out = tmp_path / "page.html"
    write_page(
        out, [run("run")], title="t", tables=tables(models), panels=evaluation_panels(models)
    )
    page = out.read_text(encoding="utf-8")
    assert "&lt;/script&gt;&lt;b&gt;\\x1b" in page
    assert HOSTILE[:12] not in page
    assert "\x1b" not in page


def test_a_report_has_the_results_of_its_runs(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    write(Disk(), folder / "evaluations.json", [result(RIGHT, curves=(CURVE,))])
    shown = list(lines(gather([folder])))
    titles = [part.title for part in shown if isinstance(part, Table)]
    assert titles[-2:] == ["Evaluations", "lambada: loss by position"]


def test_a_file_that_cannot_be_read_does_not_hide_its_run(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "evaluations.json").write_bytes(b"{")
    notes: list[str] = []
    (found,) = gather([folder], note=notes.append)
    assert found.results == ()
    (note,) = notes
    assert note.endswith("move it away; the run is shown without it")


def saved(folder: Path) -> Path:
    log = '{"kind":"step","step":1,"tokens":8,"seconds":1.0,"length":8,"rows":1,"loss":5.0}\n'
    (folder / "metrics.jsonl").write_text(log, encoding="utf-8")
    return folder

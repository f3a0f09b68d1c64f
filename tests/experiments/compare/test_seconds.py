"""A table of seconds a token, and budgets of equal seconds that it gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lengthen.config.load import build
from lengthen.config.schema import Config
from lengthen.core.schedule import steps
from lengthen.experiments.compare.compare import tables_of
from lengthen.experiments.compare.fairness import with_seconds
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.compare.seconds import SecondsTable, read_seconds
from lengthen.util.errors import SettingError
from tests.experiments.conftest import Written

MODEL = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 257, "positions": "learned"}
TABLE: dict[str, Any] = {
    "format": 1,
    "processor": "a core",
    "model": MODEL,
    "seconds_per_token": {"8": 1e-5, "32": 1.5e-5, "64": 3e-5},
}
LESS = '[variants.less]\npacing.kind = "constant"\nsame_seconds_as = "slw"\n'
TOP = {
    "baseline =": 'seconds = "seconds.json"\nbaseline =',
    "heads = 2": "heads = 2, vocabulary = 257",
}


def table(**changes: object) -> SecondsTable:
    return SecondsTable.model_validate_json(json.dumps(TABLE | changes))


def config(tokens: int, pacing: dict[str, Any], rows: int) -> Config:
    return build(
        {
            "model": {**MODEL, "length": 64},
            "batch": {"rows": rows, "hold": "tokens"},
            "optimizer": {"learning_rate": 1e-2},
            "budget": {"tokens": tokens},
            "pacing": pacing,
        }
    )


PACINGS = st.one_of(
    st.just({"kind": "constant"}),
    st.builds(
        lambda kind, start, duration: {"kind": kind, "start": start, "duration": duration},
        st.sampled_from(["linear", "doubling"]),
        st.sampled_from([8, 16]),
        st.integers(1, 40),
    ),
)
SECONDS = st.lists(st.floats(1e-6, 1e-3), min_size=3, max_size=3)


@given(
    rows=st.integers(1, 6),
    count=st.integers(1, 60),
    ours=PACINGS,
    theirs=PACINGS,
    seconds=SECONDS,
)
def test_budgets_of_equal_seconds_differ_by_one_step_at_most(
    rows: int, count: int, ours: dict[str, Any], theirs: dict[str, Any], seconds: list[float]
) -> None:
    measured = table(seconds_per_token=dict(zip((8, 32, 64), seconds, strict=True)))
    configs = {
        "ours": config(64 * rows, ours, rows),
        "theirs": config(count * 64 * rows, theirs, rows),
    }
    try:
        found = with_seconds(configs, "ours", "theirs", measured)
    except SettingError:  # less than half a step
        assume(False)
    shapes = [shape for _, shape in steps(found.schedule())]
    step = max(measured.of_step(shape.rows, shape.length) for shape in shapes)
    assert abs(measured.of_run(found) - measured.of_run(configs["theirs"])) <= step * (1 + 1e-9)


@given(rows=st.integers(1, 6), count=st.integers(1, 5_000), seconds=SECONDS)
def test_a_constant_variant_at_its_own_seconds_has_its_own_tokens(
    rows: int, count: int, seconds: list[float]
) -> None:
    measured = table(seconds_per_token=dict(zip((8, 32, 64), seconds, strict=True)))
    one = config(count * 64 * rows, {"kind": "constant"}, rows)
    assert with_seconds({"a": one, "b": one}, "a", "b", measured).budget == one.budget


def test_seconds_are_linear_between_lengths_and_summed_over_steps() -> None:
    assert table().of_step(4, 20) == pytest.approx(4 * 20 * 1.25e-5)
    whole = table().of_run(config(64 * 4 * 10, {"kind": "constant"}, 4))
    assert whole == pytest.approx(10 * 4 * 64 * 3e-5)


def read(written: Written, tmp_path: Path, more: str = LESS, **replaced: str) -> Comparison:
    (tmp_path / "seconds.json").write_text(json.dumps(TABLE), encoding="utf-8")
    return read_comparison(written(more=more, **(TOP | replaced)))


def test_a_file_has_budgets_of_its_own_for_such_variants_alone(
    written: Written, tmp_path: Path
) -> None:
    comparison = read(written, tmp_path)
    tokens = {run.variant: run.config.budget.tokens for run in comparison.runs}
    assert tokens["baseline"] == tokens["slw"] == 6000
    less = tokens["less"]
    assert less is not None
    assert less < 6000
    assert less % (8 * 64) == 0
    schedule = next(run.config for run in comparison.runs if run.variant == "less").schedule()
    assert schedule.decay_tokens == less
    (title,) = (table.title for table in tables_of(comparison, [], []) if "Results" in table.title)
    assert title == "Results at the end of each variant's budget"
    with pytest.raises(SettingError, match=r"variants\.other\.budget\.tokens: unequal budgets"):
        read(written, tmp_path, f"{LESS}[variants.other]\nbudget.tokens = {less}\n")


ADAPTIVE = 'pacing = { kind = "adaptive", start = 8, every = 2, patience = 1, max_hold = 4 }\n'
WRONG: dict[str, tuple[dict[str, str], str, str]] = {
    "no table": (
        {"baseline =": "baseline ="},
        LESS,
        "variants.less.same_seconds_as: needs seconds, which names a table of seconds a token",
    ),
    "no such table": (
        {"baseline =": 'seconds = "none.json"\nbaseline ='},
        LESS,
        "No such file or directory",
    ),
    "no variant": (
        {},
        LESS.replace('"slw"', '"slv"'),
        "variants.less.same_seconds_as: no such variant, got 'slv'; did you mean 'slw'?",
    ),
    "a chain": (
        {},
        f'{LESS}[variants.more]\nsame_seconds_as = "less"\n',
        "variants.more.same_seconds_as: must name a variant without same_seconds_as, got 'less'",
    ),
    "both budgets": (
        {},
        f"{LESS}budget.tokens = 512\n",
        "variants.less.budget: is what same_seconds_as sets",
    ),
    "another perceptron": (
        {"width = 16": 'width = 16, mlp = "swiglu"'},
        LESS,
        "variants.less.model.mlp: is 'gelu' in the table of seconds, got 'swiglu'",
    ),
    "another model": (
        {"width = 16": "width = 32"},
        LESS,
        "variants.less.model.width: is 16 in the table of seconds, got 32",
    ),
    "adaptive": (
        {},
        f'[variants.less]\n{ADAPTIVE}same_seconds_as = "slw"\n',
        "variants.less.pacing.kind: must say its lengths beforehand for a budget in flops or sec",
    ),
    "a share": (
        {},
        '[variants.less]\npacing = { kind = "linear", start = 8, duration = "30%" }\n'
        'same_seconds_as = "slw"\n',
        "variants.less.pacing.duration: is a share of budget.tokens, which flops or seconds repl",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_in_budgets_of_equal_seconds_is_one_line(
    written: Written, tmp_path: Path, mistake: str
) -> None:
    replaced, more, message = WRONG[mistake]
    with pytest.raises(SettingError) as caught:
        read(written, tmp_path, more, **replaced)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_length_that_was_not_measured_is_refused() -> None:
    short = table(seconds_per_token={"16": 1e-5, "64": 1e-5})
    with pytest.raises(SettingError, match="^seconds: has lengths 16 to 64 only, got 8$"):
        short.of_run(config(6400, {"kind": "linear", "start": 8, "duration": 9}, 4))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{", "as a whole: Invalid JSON"),
        (json.dumps(TABLE | {"format": 2}), "format: Input should be 1"),
        (json.dumps({k: v for k, v in TABLE.items() if k != "processor"}), "device: Field req"),
        (json.dumps(TABLE | {"seconds_per_token": {}}), "seconds_per_token: "),
        (json.dumps(TABLE | {"seconds_per_token": {"8": 0}}), "seconds_per_token.8: "),
        (json.dumps(TABLE | {"seconds_per_token": {"x": 1}}), "seconds_per_token.x.[key]: "),
    ],
)
def test_what_is_no_table_of_seconds_is_refused_in_one_line(
    tmp_path: Path, text: str, rule: str
) -> None:
    (tmp_path / "seconds.json").write_text(text, encoding="utf-8")
    with pytest.raises(SettingError) as caught:
        read_seconds(str(tmp_path / "seconds.json"))
    assert str(caught.value).startswith(f"seconds: is no table of seconds ({rule}")
    assert "\n" not in str(caught.value)

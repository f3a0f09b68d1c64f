"""A comparison file asks for every variant in every cell with every seed, and for nothing else."""

from pathlib import Path

import pytest

from lengthen.config.recipes import RECIPES
from lengthen.core.custom_pacing import Custom
from lengthen.core.schedule import steps
from lengthen.experiments.compare import fairness as fair
from lengthen.experiments.compare.file import comparison_of, read_comparison
from lengthen.model import cost
from lengthen.util.errors import SettingError
from tests.experiments.conftest import Written

ROOT = Path(__file__).parents[3]
GRID = """
[[grid]]
optimizer.learning_rate = [1e-2, 3e-3]
optimizer.min_learning_rate = [1e-3, 3e-4]
[[grid]]
batch.rows = [8, 16]
"""
ROWS = '[variants.rows]\nsame_tokens_as = "slw"\n'


def test_every_variant_runs_in_every_cell_with_the_same_seeds(written: Written) -> None:
    comparison = read_comparison(written(more=GRID))
    assert comparison.axes == ("optimizer.learning_rate", "batch.rows")
    assert list(comparison.cells.values()) == [(0.01, 8), (0.01, 16), (0.003, 8), (0.003, 16)]
    asked = {(run.variant, run.cell, run.seed) for run in comparison.runs}
    assert len(asked) == len(comparison.runs) == 2 * 4 * 3
    names = {run.name for run in comparison.runs}
    assert "slw/learning_rate=0.003,rows=16/seed-2" in names
    assert len(names) == len(comparison.runs)


def test_an_early_look_finds_whole_pairs(written: Written) -> None:
    seeds = [run.seed for run in read_comparison(written(more=GRID)).runs]
    assert seeds == sorted(seeds)


def test_settings_of_one_axis_move_together(written: Written) -> None:
    for run in read_comparison(written(more=GRID)).runs:
        optimizer = run.config.optimizer
        assert optimizer.min_learning_rate == pytest.approx(optimizer.learning_rate / 10)


@pytest.mark.parametrize("duration", ["8", '"30%"'])
def test_a_rows_warmup_is_held_to_the_tokens_of_another_in_a_budget_of_epochs(
    written: Written, duration: str
) -> None:
    given = {"budget.tokens = 6000": "budget.epochs = 2", "duration = 8": f"duration = {duration}"}
    runs = read_comparison(written(more=ROWS, **given)).runs
    schedules = {run.variant: run.config.schedule(sequences=1000) for run in runs}
    slw, rows = (list(steps(schedules[name])) for name in ("slw", "rows"))
    assert [shape.tokens for _, shape in rows] == [shape.tokens for _, shape in slw]
    more = ROWS + "pacing.multiple = 2\n"
    with pytest.raises(SettingError, match="variants.rows.same_tokens_as: step .* where 'slw' has"):
        read_comparison(written(more=more, **given))


@pytest.mark.parametrize("kind", ["linear", "doubling"])
def test_a_rows_warmup_trains_as_many_tokens_as_the_variant_it_names(
    written: Written, kind: str
) -> None:
    text = written(more=ROWS, **{LINEAR: LINEAR.replace("linear", kind)})
    configs = {run.variant: run.config for run in read_comparison(text).runs}
    tokens = {
        name: [shape.tokens for _, shape in steps(config.schedule())][:-1]
        for name, config in configs.items()
    }
    assert tokens["rows"] == tokens["slw"]
    assert tokens["rows"] != tokens["baseline"]
    assert configs["rows"].pacing.of == "rows"


def test_a_rows_warmup_is_worked_out_from_checked_settings_however_they_are_written(
    written: Written,
) -> None:
    plain, spelled = (
        {run.name: run.config for run in read_comparison(written(more=ROWS, **changes)).runs}
        for changes in ({}, {"rows = 8": 'rows = "0.008K"', "start = 8": 'start = "8"'})
    )
    assert spelled == plain
    with pytest.raises(SettingError, match=r"batch\.rows: must be a whole number"):
        read_comparison(written(more=ROWS, **{"rows = 8": "rows = 'many'"}))


def test_an_override_lies_over_every_variant(written: Written) -> None:
    runs = read_comparison(written(), {"budget": {"tokens": 3000}}).runs
    assert {run.config.budget.tokens for run in runs} == {3000}


def test_a_budget_in_flops_gives_each_variant_the_tokens_that_it_pays_for(
    written: Written,
) -> None:
    flops = 10**9
    given = {"seeds =": 'flops = "1B"\nseeds =', "heads = 2": "heads = 2, vocabulary = 257"}
    spent = {}
    for run in read_comparison(written(**given)).runs:
        shapes = [shape for _, shape in steps(run.config.schedule())]
        spent[run.variant] = sum(cost.flops(run.config.model, s.rows, s.length) for s in shapes)
        assert spent[run.variant] <= flops
        # Not one more step would have been paid for.
        most = cost.flops(run.config.model, run.config.batch.rows, run.config.model.length)
        assert spent[run.variant] + most > flops
    assert len(spent) == 2


def test_a_budget_in_flops_needs_none_in_tokens() -> None:
    tables = RECIPES["laptop-2min"]() | {"flops": "1e12", "seeds": [0]}
    tables["model"]["vocabulary"] = 257
    tables["variants"] = {"slw": {}, "rows": {"same_tokens_as": "slw"}}
    with_both = comparison_of(tables, "question", {}).runs
    del tables["budget"]
    assert comparison_of(tables, "question", {}).runs == with_both


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("budget.tokens = 5000\n", "variants.slw.budget"),
        ("[[grid]]\nbudget.tokens = [5000, 6000]\n", "grid.budget.tokens"),
    ],
)
def test_a_budget_beside_one_in_flops_is_refused(written: Written, more: str, place: str) -> None:
    given = {"seeds =": 'flops = "1B"\nseeds =', "heads = 2": "heads = 2, vocabulary = 257"}
    with pytest.raises(SettingError, match=f"^{place}: is what flops sets$"):
        read_comparison(written(more=more, **given))


ADAPTIVE = '{ kind = "adaptive", start = 8, every = 2, patience = 1, max_hold = 4 }'
LINEAR = '{ kind = "linear", start = 8, duration = 8 }'


@pytest.mark.parametrize(
    ("replaced", "more", "name"),
    [
        ({LINEAR: ADAPTIVE}, "", "variants.slw.pacing.kind"),
        ({}, f"[variants.grown]\npacing = {ADAPTIVE}\n", "variants.grown.pacing.kind"),
        (
            {'pacing.kind = "constant"': "", "seeds =": f"pacing = {ADAPTIVE}\nseeds ="},
            "",
            "pacing.kind",
        ),
    ],
    ids=["a variant", "one more variant", "the base"],
)
def test_a_budget_in_flops_is_refused_where_only_the_run_itself_decides_its_lengths(
    written: Written, replaced: dict[str, str], more: str, name: str
) -> None:
    flops = {'baseline = "baseline"': 'baseline = "baseline"\nflops = "1B"'}
    given = {**replaced, **flops, "heads = 2": "heads = 2, vocabulary = 257"}
    with pytest.raises(SettingError) as caught:
        read_comparison(written(more=more, **given))
    assert str(caught.value).startswith(
        f"{name}: must say its lengths beforehand for a budget in flops or seconds, "
        "got 'adaptive'; give an equal budget.tokens instead, or the lengths that it took"
    )
    tokens = {old: new for old, new in given.items() if old != 'baseline = "baseline"'}
    assert read_comparison(written(more=more, **tokens)).runs


def test_a_duration_in_per_cent_is_worked_out_for_every_variant(written: Written) -> None:
    more = """
[variants.late]
pacing = { kind = "linear", start = 8, duration = "60%" }
"""
    file = written(more=more, **{"duration = 8 }": 'duration = "30%" }'})
    configs = {run.variant: run.config for run in read_comparison(file).runs}
    for name, share in (("slw", 0.3), ("late", 0.6)):
        walked = steps(configs[name].schedule())
        first = next(before for before, plan in walked if plan.length == 64)
        assert share <= first.tokens / 6000 < share + 0.09  # a step of full length


def test_a_duration_in_per_cent_has_no_meaning_in_a_budget_of_flops(written: Written) -> None:
    flops = {"seeds =": 'flops = "1B"\nseeds =', "heads = 2": "heads = 2, vocabulary = 257"}
    with pytest.raises(
        SettingError, match="is a share of budget.tokens, which flops or seconds repl"
    ):
        read_comparison(written(**flops, **{"duration = 8 }": 'duration = "30%" }'}))


@pytest.mark.parametrize("path", sorted(ROOT.glob("studies/*.toml")), ids=lambda path: path.stem)
def test_the_published_studies_can_be_read(path: Path) -> None:
    assert read_comparison(path).runs


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.toml")), ids=lambda path: path.stem)
def test_the_ready_made_files_can_be_read(path: Path) -> None:
    baseline = {"precision": "fp32"}.get(path.stem, "baseline")
    assert read_comparison(path).baseline == baseline


def test_a_function_as_pacing_is_refused_before_any_run() -> None:
    pacing = Custom(lambda step: min(64, 8 + step), end=64)
    ours = {"recipe": "laptop-2min", "variants": {"a": {"pacing": pacing}, "b": {}}}
    with pytest.raises(SettingError, match=r"^variants\.a\.pacing: cannot be a function, as each"):
        comparison_of(ours, "one", {})
    with pytest.raises(SettingError, match=r"^pacing: cannot be a function, as each run is a"):
        comparison_of({**ours, "variants": {"a": {}}, "pacing": pacing}, "one", {})


@pytest.mark.parametrize(
    ("override", "places"),
    [
        ({"optimizer": {"learning_rate": 1e-4}}, "grid.optimizer.learning_rate, got 0.0001"),
        ({"pacing": {"kind": "constant"}}, "variants.baseline.pacing and variants.slw.pacing and"),
        (
            {"pacing": {"duration": 5}},
            "variants.baseline.pacing and variants.slw.pacing and variants.rows.same_tokens_as",
        ),
    ],
)
def test_an_override_of_what_the_file_varies_is_refused_with_the_places_where_it_varies(
    written: Written, override: dict[str, dict[str, object]], places: str
) -> None:
    with pytest.raises(SettingError) as caught:
        read_comparison(written(more=ROWS + GRID), override)
    assert f": is what the file varies in {places}" in str(caught.value)


def test_dotted_names_and_nested_tables_ask_for_the_same_runs(written: Written) -> None:
    nested = {
        "recipe": "laptop-2min",
        "budget": {"tokens": 5000},
        "seeds": [0],
        "variants": {
            "full": {"pacing": {"kind": "constant"}},
            "paced": {"pacing": {"duration": 2}},
        },
        "grid": [{"batch": {"rows": [8, 16]}}],
    }
    dotted = {
        "recipe": "laptop-2min",
        "budget.tokens": 5000,
        "seeds": [0],
        "variants": {"full": {"pacing.kind": "constant"}, "paced": {"pacing.duration": 2}},
        "grid": [{"batch.rows": [8, 16]}],
    }
    quoted = {"budget.tokens = 6000": '"budget.tokens" = 6000'}
    quoted |= {"pacing.kind = ": '"pacing.kind" = '}
    assert comparison_of(dotted, "one", {}) == comparison_of(nested, "one", {})
    assert read_comparison(written()) == read_comparison(written(**quoted))
    for given, cause in (
        (nested | {"variants": {"full": {"pacing": 1, "pacing.start": 8}}}, "pacing.start: is set"),
        (nested | {"variants": {1: {}}}, "variants: a variant's name has letters"),
        (nested | {"budget.token": 5}, "budget.token: no such setting"),
    ):
        with pytest.raises(SettingError, match=cause):
            comparison_of(given, "one", {})


WRONG = {
    "seed twice": ({"[0, 1, 2]": "[0, 1, 1]"}, "", "seeds: has a seed twice, got 1"),
    "no seeds": ({"[0, 1, 2]": "[]"}, "", "seeds: must be a list"),
    "negative seed": ({"[0, 1, 2]": "[-1]"}, "", "seeds: must be whole numbers"),
    "baseline": ({'"baseline"\n': '"basline"\n'}, "", "did you mean 'baseline'?"),
    "same tokens": (
        {},
        '[variants.rows]\nsame_tokens_as = "slv"\n',
        "variants.rows.same_tokens_as: no such variant, got 'slv'; did you mean 'slw'?",
    ),
    "same tokens as a constant": (
        {},
        '[variants.rows]\nsame_tokens_as = "baseline"\n',
        "must name a variant whose length is paced linearly",
    ),
    "same tokens twice": (
        {},
        ROWS + '[variants.more]\nsame_tokens_as = "rows"\n',
        "more.same_tokens_as: must name a variant whose length is paced linearly or by doubling",
    ),
    "a recipe": ({}, '[variants.x]\nrecipe = "laptop-2min"\n', "variants.x.recipe: belongs to"),
    "baseline's type": ({'"baseline"\n': "3\n"}, "", "baseline: no such variant, got 3"),
    "seeds' type": ({"[0, 1, 2]": '"x"'}, "", "seeds: must be a list"),
    "unequal budgets": (
        {},
        "budget.tokens = 7000\n",
        "variants.slw.budget.tokens: unequal budgets: 'baseline' has 6000, got 7000",
    ),
    "another length": ({}, "model.length = 128\n", "variants.slw.model.length: not comparable"),
    "another validation set": (
        {},
        "evaluation.tokens = 1024\n",
        "variants.slw.evaluation.tokens: not comparable",
    ),
    "a setting": ({"start = 8": "strat = 8"}, "", "variants.slw.pacing.strat: no such setting"),
    "a name": ({}, '[variants."a/b"]\n', "variants: a variant's name has letters"),
    "alike": ({}, "[variants.a-b]\n[variants.'a b']\n", "differ only in a space"),
    "no list": ({}, "[[grid]]\nbatch.rows = 8\n", "grid.batch.rows: must be a list"),
    "lists": (
        {},
        "[[grid]]\nbatch.rows = [8, 16]\nmodel.layers = [1]\n",
        "grid.model.layers: settings of one [[grid]] move together",
    ),
    "value twice": ({}, "[[grid]]\nbatch.rows = [8, 8]\n", "grid.batch.rows: has a value twice"),
    "two axes": (
        {},
        "[[grid]]\nbatch.rows = [8]\n[[grid]]\nbatch.rows = [9]\n",
        "grid.batch.rows: stands on two axes",
    ),
    "seed axis": ({}, "[[grid]]\nrun.seed = [1]\n", "grid.run.seed: is what `seeds` sets"),
    "an axis and a variant": (
        {},
        "[[grid]]\nbatch.rows = [8, 16]\n[variants.more]\nbatch.rows = 8\n",
        "variants.more.batch.rows: is what the file varies in grid.batch.rows, got 8",
    ),
    "one grid": ({}, "[grid]\nbatch.rows = [8]\n", "grid: must be [[grid]] tables"),
}


def test_a_warmup_without_end_is_refused_where_its_steps_are_gone_through(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair, "WALKED", 1000)  # a million steps take some seconds
    endless = {"duration = 8": "duration = 1_000_000_000_000"}
    tokens = {"budget.tokens = 6000": f"budget.tokens = {10**15}"}
    with pytest.raises(SettingError, match="pacing: must come to its end within 1000 steps"):
        read_comparison(written(more=ROWS, **endless, **tokens))


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_one_line(written: Written, mistake: str) -> None:
    replaced, more, message = WRONG[mistake]
    with pytest.raises(SettingError) as caught:
        read_comparison(written(more=more, **replaced))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_variants_says_so(tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text('recipe = "laptop-2min"\n')
    with pytest.raises(SettingError, match=r"variants: is missing"):
        read_comparison(tmp_path / "none.toml")

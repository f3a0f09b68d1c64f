"""Where settings come from, and how a mistake in one reads."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lengthen.cli.overrides import parse_overrides, parse_value
from lengthen.config.load import build, load, merge, nested, with_overrides
from lengthen.config.recipes import RECIPES, rows_with_the_same_tokens
from lengthen.config.schema import Config
from lengthen.core.pacing import Doubling, Linear, Root
from lengthen.experiments.compare.file import read_comparison
from lengthen.util.errors import SettingError
from tests.ways_out import takes


def small(**tables: dict[str, Any]) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": {"layers": 1, "width": 16, "heads": 2, "length": 64, "vocabulary": 257},
        "pacing": {"kind": "linear", "start": 8, "duration": 10},
        "batch": {"rows": 8},
        "optimizer": {"learning_rate": 1e-3},
        "budget": {"tokens": 100_000},
    }
    return merge(base, tables)[0]


MISTAKES = [
    ("pacing", "stat", 8, "pacing.stat: no such setting, got 8; did you mean 'start'?"),
    ("batch", "row", 8, "batch.row: no such setting, got 8; did you mean 'rows'?"),
    ("pacing", "kind", "liner", "pacing.kind: no such pacing, got 'liner'; did you mean 'linear'?"),
    ("pacing", "start", 0, "pacing.start: must be from 1 to"),
    ("pacing", "duration", "1e5000", "pacing.duration: must be below 10^300, got '1e5000'"),
    ("pacing", "duration", "101%", "pacing.duration: must be above 0% and at most 100% of the"),
    ("pacing", "duration", "-3%", "pacing.duration: must be above 0% and at most 100% of the"),
    ("pacing", "duration", "thirty %", "pacing.duration: must be above 0% and at most 100% of"),
    ("pacing", "start", 65, "pacing.start: must be at most end (64), got 65"),
    ("pacing", "end", 128, "pacing.end: must be at most model.length (64), got 128"),
    ("model", "length", 0, "model.length: must be at least 1, got 0"),
    ("model", "width", -16, "model.width: must be at least 1, got -16"),
    ("model", "heads", 3, "model.heads: must divide model.width (16), got 3"),
    ("model", "kv_heads", 0, "model.kv_heads: must be at least 1, got 0"),
    ("model", "kv_heads", -1, "model.kv_heads: must be at least 1, got -1"),
    ("model", "kv_heads", 3, "model.kv_heads: must divide model.heads (2), got 3"),
    ("model", "kv_heads", 4, "model.kv_heads: must divide model.heads (2), got 4"),
    ("model", "head_width", 0, "model.head_width: must be at least 1, got 0"),
    ("model", "kv_heads", "all", "model.kv_heads: must be a whole number"),
    ("model", "mlp", "swish", "model.mlp: must be 'gelu' or 'swiglu', got 'swish'"),
    ("model", "mlp_width", 0, "model.mlp_width: must be at least 1, got 0"),
    ("model", "mlp_width", -64, "model.mlp_width: must be at least 1, got -64"),
    ("model", "norm", "batch", "model.norm: must be 'layer' or 'rms', got 'batch'"),
    ("model", "norm_eps", 0, "model.norm_eps: must be above 0, got 0"),
    ("model", "tied", 2, "model.tied: must be true or false, got 2"),
    ("monitor", "layer", 1, "monitor.layer: must be below model.layers (1), got 1"),
    ("monitor", "every_steps", -1, "monitor.every_steps: must be at least 0, got -1"),
    ("model", "z_loss", 1.5, "model.z_loss: must be at most 1"),
    ("model", "positions", "rotary", "model.positions: must be 'learned' or 'rope', got 'rotary'"),
    (
        "data",
        "documents",
        "masked",
        "data.documents: must be 'attend' or 'mask', got 'masked'; did ",
    ),
    ("model", "rope_theta", 0, "model.rope_theta: must be above 0, got 0"),
    ("model", "layers", 1.5, "model.layers: must be a whole number, got 1.5"),
    ("model", "layers", True, "model.layers: must be a whole number, got True"),
    ("model", "length", 10**30, "model.length: must be at most"),
    ("optimizer", "learning_rate", float("nan"), "optimizer.learning_rate: must be a finite"),
    ("optimizer", "learning_rate", float("inf"), "optimizer.learning_rate: must be"),
    ("optimizer", "learning_rate", -1.0, "optimizer.learning_rate: must be at least 0, got -1.0"),
    ("optimizer", "learning_rate", "fast", "optimizer.learning_rate: must be a number, got 'fast'"),
    ("optimizer", "min_learning_rate", 0.1, "optimizer.min_learning_rate: must be at most"),
    ("optimizer", "betas", [0.9], "optimizer.betas"),
    ("optimizer", "betas", "0.9", "optimizer.betas: has too few values"),
    ("optimizer", "betas", "0.9;0.95", "optimizer.betas"),
    ("optimizer", "beta2_half_life", 0, "optimizer.beta2_half_life: must be at least 1, got 0"),
    ("optimizer", "rate_by_tokens", "root", "optimizer.rate_by_tokens: must be 'none' or 'sqrt'"),
    ("optimizer", "kind", "moun", "must be 'adamw' or 'muon', got 'moun'; did you mean 'muon'?"),
    ("optimizer", "schedule", "cosin", "got 'cosin'; did you mean 'cosine'?"),
    ("optimizer", "wsd_decay_tokens", 0, "optimizer.wsd_decay_tokens: must be at least 1, got 0"),
    ("optimizer", "wsd_decay_tokens", -5, "optimizer.wsd_decay_tokens: must be at least 1, got -5"),
    ("optimizer", "wsd_decay_tokens", 5, 'decay_tokens: needs optimizer.schedule = "wsd", got 5'),
    ("batch", "micro_tokens", 32, "batch.micro_tokens: must be at least model.length (64), got 32"),
    ("batch", "hold", "token", "batch.hold: must be 'rows' or 'tokens', got 'token'"),
    ("budget", "tokens", 63, "budget.tokens: must be at least one step (64 tokens), got 63"),
    ("budget", "tokens", "5Q", "budget.tokens: must be a whole number, with K, M, B or T"),
    ("batch", "rows", 0, "batch.rows: must be at least 1, got 0"),
    ("batch", "rows", float("inf"), "batch.rows: must be a finite number, got inf"),
    ("batch", "rows", "1e30", "batch.rows: must be at most 1000000000000000, got"),
    ("batch", "rows", [8], "batch.rows: must be a whole number, got [8]"),
    ("optimizer", "clip", True, "optimizer.clip: must be a number, got True"),
    ("optimizer", "betas", [0.9, 1.0], "optimizer.betas: must be below 1"),
    ("run", "seed", 2**63, "run.seed: must be at most"),
    ("run", "a\nb\x1b[31m", 1, r"run.a\nb\x1b[31m: no such setting"),
    ("run", "x" * 5000, 1, "xxx...xxx"),
    ("run", "compile", "perhaps", "run.compile: must be 'auto', 'off' or 'on', got 'perhaps'"),
    ("run", "compile", True, "must be 'auto', 'off' or 'on', got True; did you mean 'on'?"),
    ("run", "compile", "False", "must be 'auto', 'off' or 'on', got 'False'; did you mean 'off'?"),
    ("run", "precision", "bfloat16", "got 'bfloat16'; did you mean 'bf16'?"),
    ("budget", "passes", 1, "budget.passes: no such setting, got 1; use budget.epochs"),
    ("data", "path", "", "data.path: must not be empty, got ''"),
    ("evaluation", "every_step", 5, "did you mean 'every_steps'?"),
]


numbers = st.lists(st.integers(1, 10**6), min_size=1, max_size=5, unique=True).map(sorted)


@given(numbers, st.sampled_from([",", ", "]), st.booleans())
def test_a_list_on_the_command_line_is_read_with_and_without_brackets(
    values: list[int], comma: str, brackets: bool
) -> None:
    text = comma.join(map(str, values))
    words = ["--pacing.boundaries", f"[{text}]" if brackets else text]
    lengths = [*range(1, len(values) + 1), 64]
    tables = small(pacing={"kind": "staged", "values": lengths})
    written, said = (
        build(merge(tables, {"pacing": {"boundaries": boundaries}})[0])
        for boundaries in (values, parse_overrides(words)[0]["pacing.boundaries"])
    )
    assert written == said


@pytest.mark.parametrize(
    ("words", "setting", "value"),
    [
        (["--pacing.values", "64,4K", "--pacing.boundaries", "1K"], "values", (64, 4000)),
        (["--pacing.values=[64, 4000]", "--pacing.boundaries=100"], "boundaries", (100,)),
        (["--pacing.values", "[64,4K]", "--pacing.boundaries", "[100]"], "values", (64, 4000)),
    ],
)
def test_a_list_may_have_suffixes_and_be_one_number(
    words: list[str], setting: str, value: tuple[int, ...]
) -> None:
    changes = parse_overrides([*words, "--pacing.kind", "staged", "--model.length", "4000"])[0]
    config, _ = load("laptop-2min", {**changes, "budget.tokens": "1B"})
    assert getattr(config.pacing, setting) == value


def test_betas_are_a_list_too() -> None:
    betas = parse_overrides(["--optimizer.betas", "0.9,0.95"])[0]
    assert load("laptop-2min", betas)[0].optimizer.betas == (0.9, 0.95)


@pytest.mark.parametrize(("table", "setting", "value", "text"), MISTAKES)
def test_f46_a_mistake_is_one_line_with_setting_rule_value_and_nearest_name(
    table: str, setting: str, value: object, text: str
) -> None:
    with pytest.raises(SettingError) as caught:
        build(small(**{table: {setting: value}}))
    message = str(caught.value)
    assert text in message
    assert message.startswith(f"{table}.")
    assert "\n" not in message


def test_a_settings_file_may_have_a_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b'\xef\xbb\xbfrecipe = "laptop-2min"\r\n[model]\r\nlayers = 3\r\n')
    assert load(file)[0].model.layers == 3


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'optimizer'"):
        build(small(optimiser={}))


@takes('name a recipe that has it: recipe = "laptop-2min"')
def test_a_missing_table_is_named_and_a_recipe_has_it(tmp_path: Path) -> None:
    tables = small()
    del tables["batch"]
    with pytest.raises(SettingError, match='batch: is missing; name .* it: recipe = "laptop-2min"'):
        build(tables)
    file = tmp_path / "my.toml"
    file.write_text('recipe = "laptop-2min"\n[batch]\nrows = 8\n')
    assert load(file)[0].batch.rows == 8


def test_a_length_that_ends_below_full_length_is_noted() -> None:
    note = "pacing.end (128) is below model.length (256): contexts above 128 are never trained"
    assert load("laptop-2min", {"pacing": {"end": 128}})[1] == [note]
    rows = {"of": "rows", "kind": "linear", "start": 1, "duration": 9, "end": 32}
    assert not load("laptop-2min", {"pacing": rows})[1]


def test_an_adaptive_pacing_that_is_over_before_the_rate_has_warmed_up_is_noted() -> None:
    adaptive = {"kind": "adaptive", "start": 8, "max_hold": 20}
    note = (
        "pacing.max_hold (20) reaches full length by step 2540 at the latest, and the learning "
        "rate warms up until step 3000: it can hold nothing back"
    )
    assert load("gpt2-117m", {"pacing": adaptive})[1][-1] == note
    patient = load("gpt2-117m", {"pacing": {**adaptive, "max_hold": 24}})[1]
    assert not any("max_hold" in one for one in patient)


def test_passes_cannot_be_asked_of_dropped_leftovers() -> None:
    tables = small(budget={"epochs": 1}, batch={"leftovers": "drop"})
    with pytest.raises(
        SettingError, match='budget.epochs: cannot go with batch.leftovers = "drop"'
    ):
        build(tables)


def test_hold_is_refused_where_rows_are_paced() -> None:
    tables = small(pacing={"of": "rows"}, batch={"hold": "tokens"})
    with pytest.raises(SettingError, match=r"batch\.hold"):
        build(tables)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pacing": {"start": 16, "multiple": 16}, "batch": {"hold": "tokens"}},
            "pacing: must have lengths that divide model.length (64) where batch.leftovers is "
            '"in_place", got 48',
        ),
        (
            {"pacing": {"duration": "30%"}, "batch": {"hold": "tokens"}},
            "pacing: must have lengths that divide model.length (64) where batch.leftovers is "
            '"in_place", got 24',
        ),
        ({"pacing": {"kind": "constant"}}, 'batch.leftovers: needs batch.hold = "tokens"'),
    ],
)
def test_rows_that_cannot_be_cut_in_place_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    tables = merge(small(batch={"leftovers": "in_place"}), changes)[0]
    with pytest.raises(SettingError) as error:
        build(tables)
    assert str(error.value).startswith(message)


def test_a_duration_in_per_cent_is_steps_as_soon_as_the_budget_is_known() -> None:
    config = build(small(pacing={"duration": "30%"}))
    assert isinstance(config.pacing, Linear)
    steps = config.pacing.duration
    assert sum(8 * config.pacing(step) for step in range(steps)) == 30_016
    assert sum(8 * replace(config.pacing, duration=117)(step) for step in range(117)) < 30_000
    assert steps == tomllib.loads(config.to_toml())["pacing"]["duration"] == 118
    grown = with_overrides(config, {"budget": {"tokens": 200_000}})
    assert grown.pacing == config.pacing


def test_a_duration_in_per_cent_of_epochs_waits_for_the_store() -> None:
    config = build(small(pacing={"duration": "30%"}, budget={"epochs": 2}))
    again = build(config.tables())
    assert again.tables()["pacing"]["duration"] == "30%"
    expected = build(small(pacing={"duration": "30%"}, budget={"tokens": 2 * 900 * 64}))
    assert again.schedule(900).pacing == expected.pacing


def test_a_duration_is_refused_where_a_pacing_has_none() -> None:
    for pacing in ({"kind": "constant"}, {"kind": "adaptive", "start": 8}):
        tables = small() | {"pacing": {**pacing, "duration": "30%"}}
        with pytest.raises(SettingError, match=r"pacing\.duration: no such setting, got '30%'"):
            build(tables)


def test_counts_take_suffixes() -> None:
    config = build(small(budget={"tokens": "1.5M"}, batch={"rows": "1K"}))
    assert (config.budget.tokens, config.batch.rows) == (1_500_000, 1000)


def test_a_pacing_takes_its_end_from_the_model_or_the_batch() -> None:
    assert build(small()).pacing == Linear(start=8, end=64, duration=10, multiple=8)
    rows = build(small(pacing={"of": "rows", "start": 1})).pacing
    assert rows == Linear(of="rows", start=1, end=8, duration=10, multiple=1)


def test_what_config_toml_holds_gives_the_same_configuration_again() -> None:
    config = build(small(run={"seed": 3}, optimizer={"betas": [0.9, 0.999]}))
    assert build(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete(name: str) -> None:
    config, notes = load(name)
    assert not notes
    assert build(tomllib.loads(config.to_toml())) == config


def test_the_recipes_have_the_papers_numbers() -> None:
    slw, _ = load("gpt2-1.5b")
    baseline, _ = load("gpt2-1.5b-baseline")
    assert slw.pacing == Linear(start=64, end=1024, duration=45_000)
    assert slw.batch.rows == 8 * baseline.batch.rows == 4096
    assert slw.optimizer.learning_rate == 4 * baseline.optimizer.learning_rate == 6e-4
    assert slw.budget == baseline.budget
    assert slw.batch.leftovers == "drop"
    assert load("gpt3-125m")[0].optimizer.learning_rate == pytest.approx(40 * 6e-4)


def test_a_rows_warmup_with_the_same_tokens_must_come_out_whole() -> None:
    matched = build(rows_with_the_same_tokens(small()))
    assert matched.pacing == Linear(of="rows", start=1, end=8, duration=10, multiple=1)
    doubling = {"kind": "doubling", "start": 8, "duration": 9}
    matched = build(rows_with_the_same_tokens(build(small(pacing=doubling)).tables()))
    assert matched.pacing == Doubling(of="rows", start=1, end=8, duration=9)
    with pytest.raises(SettingError, match=r"pacing\.start.*must be a multiple of model\.length"):
        rows_with_the_same_tokens(small(pacing={"start": 9}))


def test_overrides_are_taken_from_anywhere_in_a_command_line() -> None:
    words = ["--pacing.start", "16", "recipe", "--run.precision=bf16", "--out", "a.b", "--x"]
    settings, others = parse_overrides(words)
    assert settings == {"pacing.start": 16, "run.precision": "bf16"}
    assert others == ["recipe", "--out", "a.b", "--x"]


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(SettingError, match=r"pacing\.start: needs a value"):
        parse_overrides(["recipe", "--pacing.start"])


@pytest.mark.parametrize("name", ["20261129", "2026-11-29", "1e5", "true", "[a]", "store"])
def test_a_directory_may_have_any_name_on_the_command_line(name: str) -> None:
    assert parse_overrides(["--data.path", name]) == ({"data.path": name}, [])
    assert parse_overrides(["--data.path", f'"{name}"']) == ({"data.path": name}, [])


def test_settings_of_a_call_are_nested_or_dotted_and_lie_over_every_kind_of_source(
    tmp_path: Path, store: Path
) -> None:
    file = tmp_path / "my.toml"
    config = build(small())
    file.write_text(config.to_toml(), encoding="utf-8")
    for source in ("laptop-2min", file, str(file), config):
        dotted, _ = load(source, {"pacing.start": 16, "pacing.duration": 7}, data=store)
        tables, _ = load(source, {"pacing": {"start": 16}, "pacing.duration": 7}, data=str(store))
        assert dotted == tables
        assert dotted.tables()["pacing"]["start"] == 16
        assert dotted.data.path == str(store)
    assert load(config) == (config, [])


def test_a_pacing_can_be_given_as_a_value() -> None:
    pacing = Root(start=8, end=64, duration=10)
    assert load(build(small()), {"pacing": pacing})[0].pacing == pacing


def test_another_store_takes_the_place_of_the_recorded_one(tmp_path: Path) -> None:
    config = build(small(data={"path": "/old", "store_id": "123"}))
    data = load(config, data=tmp_path)[0].data
    assert (data.path, data.store_id) == (str(tmp_path), None)


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("laptop-3min", None, "recipe: no such recipe, and no such file, got 'laptop-3min'"),
        (3, None, "recipe: must be a path, got 3"),
        ("", None, "recipe: must be a path, got ''"),
        ("laptop-2min", ["pacing.start"], "settings: must be a dictionary, such as"),
        ("laptop-2min", {8: 9}, "settings: must name settings"),
        ("laptop-2min", {"pacing.strat": 8}, "pacing.strat: no such setting"),
        ("laptop-2min", {"start": 8}, "start: no such setting"),
        (
            "laptop-2min",
            {"pacing": 8},
            "pacing: must be a table or a pacing, whose kind is constant, linear",
        ),
        ("laptop-2min", {"pacing": 8, "pacing.start": 8}, "pacing.start: is set twice"),
        ("laptop-2min", {"pacing.start": object()}, "pacing.start: must be"),
        ("laptop-2min", {"model": None}, "model: must be a table"),
    ],
)
def test_a_mistake_in_a_call_is_one_line(source: Any, changes: Any, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(source, changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_kind_drops_the_fields_it_does_not_have_and_says_so() -> None:
    tables, notes = merge(small(), {"pacing": {"kind": "constant"}})
    assert notes == [
        "pacing.kind = 'constant' has no duration; dropped",
        "pacing.kind = 'constant' has no start; dropped",
    ]
    assert build(tables).pacing.end == 64


def test_rows_take_no_end_or_multiple_in_tokens_though_a_run_has_recorded_them() -> None:
    recorded = build(small(pacing={"multiple": 16})).tables()
    tables, notes = merge(recorded, {"pacing": {"of": "rows", "start": 1}})
    assert notes == [
        "pacing.of was 'length', which had its own end; dropped",
        "pacing.of was 'length', which had its own multiple; dropped",
    ]
    rows = build(tables)
    assert (rows.pacing.end, getattr(rows.pacing, "multiple", None)) == (rows.batch.rows, 1)
    back = build(merge(rows.tables(), {"pacing": {"of": "length", "start": 8}})[0])
    assert (back.pacing.end, getattr(back.pacing, "multiple", None)) == (64, 8)
    given = build(merge(recorded, {"pacing": {"of": "rows", "start": 1, "multiple": 2}})[0])
    assert getattr(given.pacing, "multiple", None) == 2


def test_another_kind_takes_its_own_field_from_the_same_command_line() -> None:
    pacing = build(small(pacing={"kind": "root", "degree": 3})).pacing
    assert pacing == Root(start=8, end=64, duration=10, degree=3, multiple=8)


def test_of_two_settings_for_one_thing_the_later_one_wins() -> None:
    config = build(small(budget={"epochs": 2}))
    assert (config.budget.tokens, config.budget.epochs) == (None, 2)


def test_a_file_names_its_recipe_and_changes_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('recipe = "laptop-2min"\n[batch]\nrows = 16\n', encoding="utf-8")
    config, _ = load(str(file), {"batch": {"reuse_after": 9}})
    assert (config.batch.rows, config.batch.reuse_after) == (16, 9)
    assert config.model == load("laptop-2min")[0].model


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"recipe = 'laptop-2mni'", "did you mean 'laptop-2min'?"),
        (b"[model\nlayers = 3", "is not TOML in UTF-8"),
        (b"[model]\nlayers = 3\nlayers = 4", "is not TOML in UTF-8"),
        (b"\xff\xfe", "is not TOML in UTF-8"),
        (b"#" * (2**20 + 1), "must be at most 1048576 bytes"),
        (b"[" * 10**5, "is not TOML in UTF-8"),
        (b"a = " + b"9" * 5000, "is not TOML in UTF-8"),
    ],
)
def test_f46_a_file_that_is_none_is_one_line(tmp_path: Path, content: bytes, text: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(SettingError) as caught:
        load(str(file))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_f46_of_a_huge_file_no_more_is_read_than_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "huge.toml"
    with file.open("wb") as handle:
        handle.truncate(100 * 10**6)
    with pytest.raises(SettingError, match="must be at most 1048576 bytes"):
        load(str(file))


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'gpt2-117m'"):
        load("gpt2-117")


def test_a_change_is_checked_like_everything_else() -> None:
    config = build(small())
    assert with_overrides(config, {"run": {"seed": 5}}).run.seed == 5
    with pytest.raises(SettingError, match=r"run\.seed"):
        with_overrides(config, {"run": {"seed": -1}})


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("linear")
)
names = st.sampled_from(
    [
        "model",
        "pacing",
        "batch",
        "optimizer",
        "budget",
        "run",
        "kind",
        "start",
        "rows",
        "tokens",
        "x",
    ]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.dictionaries(names, st.one_of(scalars, st.dictionaries(names, scalars)), max_size=4)
)
def test_any_tables_either_pass_or_fail_with_one_line(changes: dict[str, Any]) -> None:
    mistake = ""
    try:
        assert isinstance(build(merge(small(), changes)[0]), Config)
    except SettingError as error:
        mistake = str(error)
    assert "\n" not in mistake


rates = st.floats(1e-7, 1e2)
shares = st.floats(0, 1)


@given(rates)
def test_a_peak_alone_has_a_tenth_of_it_as_its_minimum(peak: float) -> None:
    config = build(small(optimizer={"learning_rate": peak}))
    assert config.optimizer.min_learning_rate == pytest.approx(peak / 10, rel=1e-5)
    # It is a number in config.toml, so that a run keeps it whatever becomes of this rule.
    assert tomllib.loads(config.to_toml())["optimizer"]["min_learning_rate"] > 0


@given(rates, shares, rates)
def test_a_new_peak_alone_keeps_the_share_of_it_that_the_minimum_was(
    peak: float, share: float, new: float
) -> None:
    base = small(optimizer={"learning_rate": peak, "min_learning_rate": share * peak})
    tables, notes = merge(base, {"optimizer": {"learning_rate": new}})
    minimum = build(tables).optimizer.min_learning_rate
    assert minimum == pytest.approx(share * new, rel=1e-5)
    follows = share * peak > 0 and new != peak
    assert notes == [f"optimizer.min_learning_rate follows the new peak: {minimum:g}"] * follows


@pytest.mark.parametrize("spelled", [".004", "4.e-3", "+0.004"])  # texts, which TOML has not
def test_the_minimum_follows_a_peak_however_it_is_written(spelled: str) -> None:
    changes, _ = parse_overrides(["--optimizer.learning_rate", spelled])
    base = small(optimizer={"learning_rate": "1.e-2", "min_learning_rate": "1.e-3"})
    tables, notes = merge(base, nested(changes))
    assert build(tables).optimizer.min_learning_rate == 0.0004
    assert notes == ["optimizer.min_learning_rate follows the new peak: 0.0004"]


@given(rates, rates, shares)
def test_a_minimum_that_is_given_stays_as_it_is(peak: float, new: float, share: float) -> None:
    base = small(optimizer={"learning_rate": peak, "min_learning_rate": peak / 2})
    given_both = {"learning_rate": new, "min_learning_rate": share * new}
    tables, notes = merge(base, {"optimizer": given_both})
    assert build(tables).optimizer.min_learning_rate == share * new
    assert notes == []


def test_a_minimum_above_the_peak_is_refused() -> None:
    too_high = {"optimizer": {"learning_rate": 1e-4, "min_learning_rate": 2e-4}}
    with pytest.raises(SettingError, match="min_learning_rate: must be at most"):
        build(merge(small(), too_high)[0])


def test_a_file_may_quote_dotted_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('recipe = "laptop-2min"\n"budget.tokens" = "5K"\n')
    assert load(file)[0].budget.tokens == 5000


def test_the_settings_of_another_training_loop_are_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[model]\nlength = 64\n")
    (tmp_path / "metrics.jsonl").write_text("")
    cause = f"RUN: was written by another training loop.*`lengthen report {tmp_path}` reads its log"
    with pytest.raises(SettingError, match=cause):
        load(str(tmp_path / "config.toml"))
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(SettingError, match="pacing: is missing"):
        load(str(tmp_path / "config.toml"))


@given(
    hundredths=st.integers(1, 300),
    rows=st.integers(1, 50),
    power=st.sampled_from([100, 1000, 10_000]),
)
def test_passes_are_the_number_that_was_written_to_the_last_row(
    hundredths: int, rows: int, power: int
) -> None:
    passes = parse_value(f"{hundredths // 100}.{hundredths % 100:02d}")
    budget = build(small(budget={"epochs": passes})).schedule(rows * power).budget
    assert budget == hundredths * rows * power * 64 // 100


def test_starts_are_spread_only_where_every_length_divides_the_full_one() -> None:
    spread = {"length": 64, "positions_start": "spread"}
    build(small(model=spread, pacing={"kind": "doubling", "duration": 10}))
    rule = r'^pacing: must have lengths that divide model.length \(64\) .*"spread", got 24; '
    with pytest.raises(SettingError, match=rule):
        build(small(model=spread))
    for budget in ({"tokens": 100_000}, {"epochs": 2}):
        with pytest.raises(SettingError, match=rule):
            build(small(model=spread, pacing={"duration": "30%"}, budget=budget))
    build(small(model=spread, pacing={"kind": "doubling", "duration": "30%"}))
    build(small(model=spread, pacing={"duration": 0}))  # never short


@pytest.mark.parametrize(
    ("width", "inner"), [(16, 256), (96, 256), (97, 512), (768, 2048), (4096, 11008), (5120, 13824)]
)
def test_a_perceptron_is_as_wide_as_those_of_gpt2_and_llama(width: int, inner: int) -> None:
    sizes = {"width": width, "heads": 1}
    assert build(small(model={**sizes})).model.inner_width == 4 * width
    assert build(small(model={**sizes, "mlp": "swiglu"})).model.inner_width == inner
    assert build(small(model={**sizes, "mlp": "swiglu", "mlp_width": 7})).model.inner_width == 7


def test_rotary_positions_need_heads_of_an_even_width() -> None:
    rule = r"model.heads: must give heads an even width for rotary positions, got 16"
    with pytest.raises(SettingError, match=rule):
        build(small(model={"heads": 16, "positions": "rope"}))
    build(small(model={"heads": 8, "positions": "rope"}))
    build(small(model={"heads": 16}))


@pytest.mark.parametrize("name", ["train_novels.py", "my.json", "my.yaml"])
def test_a_settings_file_of_another_kind_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text("n_layer = 6\n", encoding="utf-8")
    for read in (load, read_comparison):
        with pytest.raises(SettingError) as caught:
            read(file)
        assert str(caught.value) == f"{file}: must be a TOML file, whose name ends in .toml"

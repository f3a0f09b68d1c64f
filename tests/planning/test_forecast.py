"""Forecasts: one column each, the same lines, and a picture that any browser shows."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.cli.main import main
from lengthen.config.schema import Config
from lengthen.distributed import memory as memory_module
from lengthen.distributed.memory import CPU_MICRO_TOKENS, memory_of
from lengthen.model import cost
from lengthen.planning import forecast as forecast_module
from lengthen.planning.forecast import Forecast, forecasts, lines, panels, table, write
from lengthen.training import calibrate
from lengthen.util.errors import SettingError
from tests.conftest import Configure
from tests.reporting.drawn import lines as drawn_lines
from tests.reporting.drawn import texts

Words = list[str]
Forecasts = Callable[..., list[Forecast]]


@pytest.fixture
def forecast_of(configured: Configure) -> Forecasts:
    """Give forecasts of the tiny configuration, with any tables changed for each name."""

    def found(**variants: dict[str, Any]) -> list[Forecast]:
        named = {name: configured(**tables) for name, tables in variants.items()}
        return forecasts(named, "1M", print)

    return found


def test_every_configuration_has_the_same_lines(forecast_of: Forecasts) -> None:
    slw, baseline = forecast_of(slw={}, baseline={"pacing": {"kind": "constant"}})
    assert [name for name, _ in lines(slw)] == [name for name, _ in lines(baseline, slw)]
    found = table([slw, baseline])
    assert found.columns == ("", "slw", "baseline")
    assert [row[1] for row in found.rows] == [text for _, text in lines(slw)]


def test_flops_and_seconds_stand_beside_those_of_the_first(forecast_of: Forecasts) -> None:
    one, twice = forecast_of(one={}, twice={"budget": {"tokens": 20_000}})
    factor = twice.plan.flops / one.plan.flops
    texts = dict(lines(twice, one))
    assert texts["arithmetic"].endswith(f"({factor:.3g} x)")
    assert texts["time"].endswith(f"({factor:.3g} x)")  # at a given speed they are in proportion
    assert " x)" not in "".join(text for _, text in lines(one))


def test_at_a_given_speed_seconds_are_flops_over_it(forecast_of: Forecasts) -> None:
    (one,) = forecast_of(one={})
    assert one.duration == pytest.approx(one.plan.flops / 1e6)
    assert dict(lines(one))["speed"] == "0 GFLOP/s, as given"


def test_a_warmup_saves_arithmetic_and_time_of_full_length_on_as_many_tokens(
    forecast_of: Forecasts,
) -> None:
    slw, full = forecast_of(slw={}, full={"pacing": {"kind": "constant"}})
    model, tokens = slw.config.model, slw.plan.tokens
    shapes = slw.plan.shapes.items()

    def causal(rows: int, length: int) -> int:
        pairs = rows * length * (length + 1) // 2  # of a token and one that it attends to
        products = cost.flops(model, rows, length) - 12 * rows * length**2 * model.layers * 16
        return products + 12 * pairs * model.layers * model.width

    assert model.width == 16
    ours = sum(count * causal(*shape) for shape, count in shapes)
    theirs = causal(1, model.length) * tokens / model.length
    in_full = 1 - slw.plan.flops / (cost.flops(model, 1, model.length) * tokens / model.length)
    assert slw.saving.causal == pytest.approx(1 - ours / theirs)
    assert 0 < slw.saving.causal < slw.saving.full == pytest.approx(in_full)
    assert slw.time_saved == pytest.approx(in_full)
    assert full.saving.causal == pytest.approx(0) == full.saving.full
    assert dict(lines(slw))["saved by the warmup"].endswith("less than full length throughout")


def test_a_document_mask_costs_memory_and_saves_no_arithmetic(forecast_of: Forecasts) -> None:
    big = {"model": {"length": 1024}, "batch": {"micro_tokens": 8192}}
    plain, masked = forecast_of(plain=big, masked={**big, "data": {"documents": "mask"}})
    assert masked.plan.memory - plain.plan.memory == 4 * 8192 * 1024
    assert masked.plan.flops == plain.plan.flops
    texts = dict(lines(masked))
    assert texts["memory"].endswith(
        "in a micro-batch, 0.03 GB of it a document mask, which saves no FLOP"
    )
    assert "document" not in " ".join(text for _, text in lines(plain))
    assert masked.machine != plain.machine  # their steps are tried apart


def test_the_rate_stands_in_steps_and_in_tokens(forecast_of: Forecasts) -> None:
    (one,) = forecast_of(one={"optimizer": {"min_learning_rate": 0.001, "decay_tokens": 5000}})
    plan, texts = one.plan, dict(lines(one))
    assert texts["warm-up of the learning rate"] == "4 steps, 384 tokens, up to 0.01"
    assert plan.full is not None
    assert (
        texts["learning rate at full length"]
        == f"{plan.full.learning_rate:.3g} at its first step, 13"
    )
    assert plan.lowest is not None
    before = f"{plan.lowest.tokens_before:,}"
    assert (
        f"0.001 from step {plan.lowest.step} on, after {before} tokens"
        in texts["lowest learning rate"]
    )
    last = plan.curve[-1]
    assert texts["learning rate at the end"] == (
        f"0.001 at step {plan.steps}, after {last.tokens_before:,} tokens"
    )


@pytest.mark.parametrize(
    ("tables", "line", "expected"),
    [
        ({"pacing": {"duration": 500}}, "full length", "not reached within the budget"),
        (
            {"pacing": {"duration": 500}},
            "learning rate at full length",
            "full length is not reached",
        ),
        ({"pacing": {"kind": "constant"}}, "full length", "from the first step on"),
        ({"pacing": {"kind": "constant"}}, "lengths", "64 at every step"),
        (
            {"optimizer": {"warmup_steps": 0}},
            "warm-up of the learning rate",
            "none: 0.01 from the first step on",
        ),
        ({}, "lowest learning rate", "0.001 after 10,000 tokens, where the budget ends"),
        ({"optimizer": {"schedule": "constant"}}, "lowest learning rate", "0.01: it never falls"),
        (
            {"optimizer": {"rate_by_tokens": "sqrt"}},
            "lowest learning rate",
            "0.001 after 10,000 tokens, where the budget ends, before rate_by_tokens",
        ),
        (
            {"optimizer": {"schedule": "wsd", "wsd_decay_tokens": 2_500}},
            "lowest learning rate",
            "0.001 after 10,000 tokens, where the budget ends, falling from 7,500 tokens on",
        ),
        (
            {"optimizer": {"min_learning_rate": 0.001, "decay_tokens": 20_000}},
            "lowest learning rate",
            "not reached: it would be 0.001 after 20,000 tokens, beyond the budget",
        ),
        (
            {"optimizer": {"warmup_steps": 400}},
            "lowest learning rate",
            "not reached: the budget ends while the learning rate warms up",
        ),
        (
            {"pacing": {"end": 48}},
            "full length",
            "never: pacing.end is 48, model.length 64",
        ),
    ],
)
def test_what_does_not_happen_is_noted_too(
    forecast_of: Forecasts, tables: dict[str, Any], line: str, expected: str
) -> None:
    (one,) = forecast_of(one=tables)
    assert dict(lines(one))[line] == expected


def test_a_budget_that_ends_within_the_warm_up_says_so(forecast_of: Forecasts) -> None:
    (one,) = forecast_of(one={"optimizer": {"warmup_steps": 400}})
    text = dict(lines(one))["warm-up of the learning rate"]
    assert text.endswith("9,984 tokens: the budget ends before its 400 steps")


@pytest.mark.parametrize(
    ("batch", "unit"),
    [({"hold": "tokens"}, "row"), ({"hold": "tokens", "leftovers": "in_place"}, "sequence")],
)
def test_what_a_budget_leaves_is_less_than_one_more_row_or_in_place_sequence(
    forecast_of: Forecasts, batch: dict[str, Any], unit: str
) -> None:
    short = {"batch": batch, "pacing": {"kind": "doubling"}, "budget": {"tokens": 1029}}
    (one,) = forecast_of(one=short)
    assert dict(lines(one))["tokens"].endswith(f"less than one more {unit}")


def test_leftovers_stand_there_or_what_was_dropped(forecast_of: Forecasts) -> None:
    kept, dropped = forecast_of(kept={}, dropped={"batch": {"leftovers": "drop"}})
    corpus = kept.plan.corpus
    assert corpus is not None
    most = f"{corpus.most_leftover:,} tokens at most, {corpus.leftover:,} at the end"
    assert dict(lines(kept))["leftovers"] == most
    assert re.fullmatch(r"[\d,]+ tokens dropped", dict(lines(dropped))["leftovers"])


def test_an_epoch_of_the_corpus_is_over_when_all_of_it_was_read_or_dropped(
    forecast_of: Forecasts,
) -> None:
    held: dict[str, Any] = {"pacing": {"kind": "constant", "end": 16}, "budget": {"tokens": 12_800}}
    dropping = {**held, "batch": {"leftovers": "drop"}}
    kept, dropped = (one.plan.corpus for one in forecast_of(kept=held, dropped=dropping))
    assert kept is not None
    assert dropped is not None
    assert dropped.dropped == 3 * 12_800  # of each 64 tokens 16 are read
    assert dropped.epochs == pytest.approx(4 * kept.epochs)


def test_an_adaptive_pacing_has_two_columns(forecast_of: Forecasts) -> None:
    found = forecast_of(mine={"pacing": {"kind": "adaptive", "every": 2, "max_hold": 6}})
    assert [one.name for one in found] == ["mine, quickest", "mine, slowest"]
    assert found[0].plan.steps < found[1].plan.steps


def test_a_plan_that_takes_long_says_how_far_it_is(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_module, "SOON", 0.0)
    notes_: list[str] = []
    config = configured(pacing={"duration": 5000}, budget={"tokens": 10**6})
    forecasts({"slow": config}, "1M", notes_.append)
    assert [text.partition(":")[0] for text in notes_] == ["planning slow"]
    assert re.fullmatch(r"planning slow: \d+ %", notes_[0])


def test_alike_models_are_tried_once_and_others_again(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[Config, set[tuple[int, int]]]] = []

    def planted(config: Config, _: int, shapes: list[tuple[int, int]]) -> calibrate.GivenSpeed:
        tried.append((config, set(shapes)))
        return calibrate.GivenSpeed(config.model, 1e9, "planted")

    monkeypatch.setattr(calibrate, "measure_speed", planted)
    notes: list[str] = []
    named = {
        "slw": configured(),
        "baseline": configured(pacing={"kind": "constant"}),
        "wide": configured(model={"width": 32}),
    }
    found = forecasts(named, None, notes.append)
    assert [config.model.width for config, _ in tried] == [16, 32]
    assert tried[0][1] == set(found[0].plan.shapes) | set(found[1].plan.shapes)
    assert notes[0].startswith("trying steps of slw, baseline, ")


def auto(configured: Configure, **run: Any) -> Forecast:
    (found,) = forecasts(
        {"one": configured(batch={"rows": 128, "micro_tokens": "auto"}, run=run)}, "1T", print
    )
    return found


def test_auto_is_estimated_for_a_processor_by_its_caches(configured: Configure) -> None:
    found = auto(configured)
    assert found.plan.micro_tokens == CPU_MICRO_TOKENS
    assert dict(lines(found))["memory"].endswith(
        f" GB on a processor with {CPU_MICRO_TOKENS:,} tokens in a micro-batch"
    )


def test_auto_is_estimated_for_a_gpu_by_its_free_memory(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_module, "gpus", lambda: 1)
    card = torch.device("cuda", 0)
    monkeypatch.setattr(
        memory_module, "device_here", {"auto": card, "cpu": torch.device("cpu")}.get
    )
    whole, half = 128 * 64, 64 * 64
    config = configured(model={"vocabulary": 257})
    for limit, size in (
        (memory_of(config, whole), whole),
        (memory_of(config, half), half),
        (1, 64),
    ):
        monkeypatch.setattr(memory_module, "memory_limit", {card: limit}.get)
        found = auto(configured)
        assert found.plan.micro_tokens == size
        assert dict(lines(found))["memory"].endswith(
            'in a micro-batch; "auto" takes what fits a GPU'
        )
    assert auto(configured, device="cpu").plan.micro_tokens == CPU_MICRO_TOKENS


def test_a_plan_for_a_gpu_that_is_not_here_says_that_its_micro_batches_are_another_machines(
    configured: Configure,
) -> None:
    found = auto(configured, device="cuda")
    assert dict(lines(found))["memory"].endswith('in a micro-batch; "auto" takes what fits a GPU')


def test_double_precision_takes_twice_the_memory(forecast_of: Forecasts) -> None:
    single, double = forecast_of(single={}, double={"run": {"precision": "fp64"}})
    assert double.plan.memory == 2 * single.plan.memory


def test_a_missing_vocabulary_says_what_to_give(configured: Configure) -> None:
    with pytest.raises(SettingError, match=r"model.vocabulary: is missing; give a token store"):
        forecasts({"one": configured(data={"path": None})}, "1T", print)


def test_the_panels_have_a_curve_for_everyone(forecast_of: Forecasts) -> None:
    found = forecast_of(slw={}, baseline={"pacing": {"kind": "constant"}})
    shown = {panel.title: panel for panel in panels(found)}
    assert list(shown) == [
        "Length",
        "Tokens per step",
        "Learning rate by token",
        "Learning rate by step",
        "FLOP so far",
        "Seconds so far",
        "Leftovers",
    ]
    for panel in shown.values():
        assert [curve.name for curve in panel.curves] == ["slw", "baseline"]
    slw = found[0]
    assert shown["Length"].curves[0].points[0] == (64, 8)
    assert shown["Seconds so far"].curves[0].points[-1] == (slw.plan.tokens, slw.duration)


@pytest.mark.parametrize(("speed", "unit"), [({}, "MFLOP"), ({"width": 256}, "GFLOP")])
def test_flops_are_drawn_in_a_unit_that_leaves_short_numbers(
    forecast_of: Forecasts, speed: dict[str, Any], unit: str
) -> None:
    found = forecast_of(one={"model": speed})
    panel = next(panel for panel in panels(found) if panel.title == "FLOP so far")
    assert panel.y == unit
    assert 1 <= panel.curves[0].points[-1][1] < 1000


def test_without_a_store_there_is_no_panel_of_leftovers(configured: Configure) -> None:
    config = configured(data={"path": None}, model={"vocabulary": 257})
    found = forecasts({"one": config}, "1T", print)
    assert "Leftovers" not in [panel.title for panel in panels(found)]
    assert dict(lines(found[0]))["leftovers"] == "give --data to know"


def test_the_picture_is_one_file(forecast_of: Forecasts, tmp_path: Path) -> None:
    found = forecast_of(slw={}, baseline={"pacing": {"kind": "constant"}})
    write(tmp_path / "plan.svg", found)
    curves = drawn_lines((tmp_path / "plan.svg").read_bytes())
    assert [len(panel) for panel in curves.values()] == 7 * [2]
    write(tmp_path / "plan.png", found)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_the_table_and_the_figures(forecast_of: Forecasts, tmp_path: Path) -> None:
    found = forecast_of(slw={}, baseline={"pacing": {"kind": "constant"}})
    write(tmp_path / "plan.html", found)
    text = (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert re.findall("<h3>(.*?)</h3>", text) == [panel.title for panel in panels(found)]
    assert "warm-up of the learning rate" in text
    assert "Nothing was recorded" not in text
    assert "worked out, before any run" in text


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("plan.pdf", "--out: must end in .svg, .png or .html, got"),
        ("plan", "--out: must end in .svg, .png or .html, got"),
        ("nowhere/plan.svg", "--out: must be a file in a directory that exists, got"),
    ],
)
def test_an_impossible_picture_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    words = ["plan", "laptop-2min", "--model.vocabulary", "300", "--out", str(tmp_path / out)]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"lengthen: {message}")
    assert shown.out == ""


def test_the_command_takes_recipes_and_files_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my.toml").write_text('recipe = "laptop-2min"\n', encoding="utf-8")
    files = [str(tmp_path / folder / "my.toml") for folder in ("one", "two")]
    out = tmp_path / "plan.svg"
    words = ["plan", "laptop-2min", *files, "--model.vocabulary", "300", "--flops", "1T"]
    assert main([*words, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == str(out)
    assert "(1 x)" in shown
    shown = "".join(texts(out.read_bytes()))
    assert all(name in shown for name in ("laptop-2min", *files))


def test_a_name_that_nobody_shares_is_the_files_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.toml").write_text('recipe = "laptop-2min"\n', encoding="utf-8")
    words = ["plan", "laptop-2min", str(tmp_path / "my.toml"), "--model.vocabulary", "300"]
    assert main([*words, "--flops", "1T"]) == 0
    heads = capsys.readouterr().out.splitlines()[1].split()
    assert heads == ["laptop-2min", "my"]

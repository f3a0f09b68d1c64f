"""What "auto" of precision and compile setting becomes, and that a run keeps it."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.cli.main import main
from lengthen.config.load import load_run
from lengthen.distributed import auto
from lengthen.distributed.auto import decided, decided_alike, has_matrix_units
from lengthen.experiments.plans import plan
from lengthen.run.metrics import read_metrics
from lengthen.training.branch import branch
from lengthen.training.start import resume, train
from lengthen.util.errors import SettingError
from tests.conftest import Configure

AUTO = {"precision": "auto", "compile": "auto"}
LONG = {"budget": {"tokens": 10**12}}
Units = Callable[[bool], None]


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Units:
    """Give a processor matrix units, or take them away."""
    return lambda there: monkeypatch.setattr(auto, "has_matrix_units", lambda _: there)


def run_of(path: Path) -> tuple[str, str]:
    run = load_run(path / "config.toml").run
    return run.precision, run.compile


@pytest.mark.parametrize(("there", "precision"), [(True, "bf16"), (False, "fp32")])
def test_precision_is_bf16_where_there_are_matrix_units_for_it(
    configured: Configure, units: Units, there: bool, precision: str
) -> None:
    units(there)
    config, (why, _) = decided(configured(run=AUTO))
    assert config.run.precision == precision
    has = "has" if there else "has no"
    said = f'run.precision = "auto" takes {precision}: this device {has} matrix units'
    assert why.startswith(said)


def test_what_is_set_stays_and_needs_no_reason(configured: Configure, units: Units) -> None:
    units(True)
    config = configured(run={"precision": "fp64", "compile": "off"})
    assert decided(config) == (config, [])


@pytest.mark.parametrize(
    ("flags", "found"),
    [("avx512_bf16 amx_bf16 avx512_fp16", True), ("avx512_bf16 amx_int8", False), ("", False)],
)
def test_a_processor_has_them_by_its_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, found: bool
) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(auto, "CPUINFO", file)
    assert not has_matrix_units(torch.device("cpu"))  # of a system without it
    file.write_text(f"model name\t: One\nflags\t\t: fpu {flags}\n\n")
    assert has_matrix_units(torch.device("cpu")) is found


@pytest.mark.parametrize(
    ("supported", "capability", "found"),
    [(True, (9, 0), True), (True, (8, 0), True), (True, (7, 5), False), (False, (7, 0), False)],
)
def test_a_gpu_has_them_from_ampere_on_and_where_nothing_is_emulated(
    monkeypatch: pytest.MonkeyPatch, supported: bool, capability: tuple[int, int], found: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert has_matrix_units(torch.device("cuda")) is found
    assert not has_matrix_units(torch.device("mps"))


@pytest.mark.parametrize(
    ("there", "tables", "value", "why"),
    [
        (True, LONG, "on", "it saves about"),
        (True, {}, "off", "it saves about 0 s of 0, which is less than"),
        (False, LONG, "off", "compiled fp32 is not faster on this kind of device"),
        (True, {**LONG, "run": {"precision": "fp64"}}, "off", "compiled fp64 is not faster"),
        (True, {**LONG, "run": {"sharded": True}}, "off", "run.sharded is on"),
        (True, {**LONG, "data": {"documents": "mask"}}, "off", 'data.documents is "mask"'),
        (True, {"budget": {"minutes": 600}}, "on", "it saves about 1,800 s of 36,000"),
    ],
)
def test_compile_is_on_where_it_earns_its_time_back(
    configured: Configure,
    units: Units,
    there: bool,
    tables: dict[str, Any],
    value: str,
    why: str,
) -> None:
    units(there)
    tables = {"model": {"vocabulary": 257}, **tables, "run": {**AUTO, **tables.get("run", {})}}
    if "minutes" in tables.get("budget", {}):
        tables["budget"]["tokens"] = None
    config, reasons = decided(configured(**tables))
    assert config.run.compile == value
    said = "compiles" if value == "on" else "stays off"
    assert f'run.compile = "auto" {said}: {why}' in reasons[-1]


def test_without_a_compiler_it_stays_off_and_says_so(
    configured: Configure, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    units(True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    config, reasons = decided(configured(run=AUTO, model={"vocabulary": 257}, **LONG))
    assert config.run.compile == "off"
    assert "stays off: needs a compiler, no-such-compiler, and" in reasons[-1]


def test_of_several_gpus_each_takes_its_part_of_the_time(
    configured: Configure, units: Units, monkeypatch: pytest.MonkeyPatch
) -> None:
    units(True)
    monkeypatch.setattr(auto, "device_here", lambda _: torch.device("cuda"))
    monkeypatch.setattr(auto, "lacks_compiler", lambda _: "")
    config = configured(run=AUTO, model={"vocabulary": 257}, **LONG)
    alone, said = decided(config)
    monkeypatch.setenv("WORLD_SIZE", "8")
    several, said_of_several = decided(config)
    assert (alone.run.compile, several.run.compile) == ("on", "off")
    of, of_several = (
        float(one[-1].split(" s of ")[1].split(", ")[0].replace(",", ""))
        for one in (said, said_of_several)
    )
    assert of == pytest.approx(8 * of_several, rel=0.01)


def test_several_are_compiled_all_or_none(configured: Configure, units: Units) -> None:
    units(True)
    long, short = (
        configured(run=AUTO, model={"vocabulary": 257}, **tables) for tables in (LONG, {})
    )
    assert [one.run.compile for one in decided_alike([(long, None)] * 2)[0]] == ["on", "on"]
    configs, reasons = decided_alike([(long, None), (short, None)])
    assert [one.run.compile for one in configs] == ["off", "off"]
    assert len(reasons) == 2


def test_a_run_says_what_was_decided_and_keeps_it_on_any_machine(
    configured: Configure, tmp_path: Path, units: Units, capsys: pytest.CaptureFixture[str]
) -> None:
    units(True)
    run = tmp_path / "run"
    config = configured(run=AUTO, budget={"tokens": 2000})
    train(config, run)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert 'run.precision = "auto" takes bf16' in first
    assert 'run.compile = "auto" stays off' in second
    assert run_of(run) == ("bf16", "off")
    units(False)
    train(config, run, resume="auto", quiet=True)
    assert run_of(run) == ("bf16", "off")
    resume(run, settings={"budget.tokens": 3000, "run": AUTO}, quiet=True)
    assert run_of(run) == ("bf16", "off")
    branch(run, tmp_path / "branch", settings={"budget.tokens": 4000}, quiet=True)
    assert run_of(tmp_path / "branch") == ("bf16", "off")
    branch(run, tmp_path / "anew", settings={"budget.tokens": 4000, "run": AUTO}, quiet=True)
    assert run_of(tmp_path / "anew") == ("fp32", "off")


def test_a_run_whose_file_was_edited_to_auto_goes_on_with_what_this_device_decides(
    configured: Configure, tmp_path: Path, units: Units, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(configured(budget={"tokens": 2000}), run, quiet=True)
    text = (run / "config.toml").read_text().replace('"fp32"', '"auto"').replace('"off"', '"auto"')
    (run / "config.toml").write_text(text)
    assert run_of(run) == ("auto", "auto")
    units(True)
    resume(run, settings={"budget.tokens": 3000})
    assert run_of(run) == ("bf16", "off")
    assert 'run.precision = "auto" takes bf16' in capsys.readouterr().err
    resumed = read_metrics(run / "metrics.jsonl").events
    (facts,) = [event.facts for event in resumed if event.name == "resumed"]
    assert facts["overrides"]["run"]["precision"] == "bf16"


def test_a_launcher_that_finds_a_run_of_another_precision_is_refused(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured(budget={"tokens": 2000}), tmp_path / "run", quiet=True)
    config = configured(run={"precision": "bf16"}, budget={"tokens": 2000})
    with pytest.raises(
        SettingError, match=r"run\.precision: --resume auto found a run with 'fp32'"
    ):
        train(config, tmp_path / "run", resume="auto", quiet=True)


def test_a_plan_says_what_auto_means_here(
    store: Path, units: Units, capsys: pytest.CaptureFixture[str]
) -> None:
    units(True)
    assert main(["plan", "laptop-2min", "--data", str(store), "--flops", "1T"]) == 0
    said = capsys.readouterr().err
    assert 'run.precision = "auto" takes bf16: this device has matrix units' in said
    assert 'run.compile = "auto" stays off: it saves about' in said


def test_recipes_side_by_side_are_decided_each_as_it_would_be_trained(
    store: Path, units: Units, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units(True)
    long = tmp_path / "long.toml"
    long.write_text('recipe = "laptop-2min"\nbudget.tokens = "100B"\n')
    plans = plan(long, "laptop-2min", data=store, flops="1T")
    assert [one.config.run.compile for one in plans.forecasts] == ["on", "off"]
    said = capsys.readouterr().err
    assert 'long: run.compile = "auto" compiles: it saves' in said
    assert 'laptop-2min: run.compile = "auto" stays off: it saves' in said


def test_a_dry_run_says_it_too(
    store: Path, units: Units, capsys: pytest.CaptureFixture[str]
) -> None:
    units(True)
    assert main(["train", "laptop-2min", "--data", str(store), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert tomllib.loads(said.out)["run"]["precision"] == "bf16"
    assert "takes bf16: this device has matrix units" in said.err

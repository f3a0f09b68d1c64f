"""`make gpu`: what it runs, what it does with its time, what it brings back."""

import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from contextlib import closing
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthen.config import load as settings
from lengthen.config.schema import Config
from lengthen.core.schedule import steps
from lengthen.experiments.compare.seconds import SecondsTable, read_seconds
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import JsonLines
from lengthen.run.records import EvalRecord, StepRecord, to_json
from lengthen.training.calibrate import TimedStep
from lengthen.util.disk import Disk
from lengthen.util.errors import UnstableError
from scripts.gpu import cliff, lengths, long, runs, seconds, speed, store
from scripts.gpu.__main__ import carried_out, chosen
from scripts.gpu.archive import archive
from scripts.gpu.install import ROOT, environment
from scripts.gpu.machine import card
from scripts.gpu.parts import PARTS, Call
from scripts.predicted_saving import SHAPES


def test_every_part_is_a_module_and_the_shares_are_a_whole() -> None:
    assert all(find_spec(f"scripts.gpu.{part.name}") for part in PARTS)
    assert sum(part.share for part in PARTS) == pytest.approx(1)


def test_the_page_has_every_part_with_its_share() -> None:
    page = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    for part in PARTS:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{part.name}` |")]
        assert row.endswith(f"| {100 * part.share:.0f} % |")


def test_parts_are_chosen_by_name_and_keep_their_order() -> None:
    assert chosen("") == list(PARTS)
    assert [part.name for part in chosen("speed, tests")] == ["tests", "speed"]


def test_a_name_of_no_part_is_one_line_with_the_nearest() -> None:
    words = [sys.executable, "-m", "scripts.gpu", "--parts", "tests,sped"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    names = ", ".join(part.name for part in PARTS)
    rule = f"gpu: PARTS must be of {names}; got 'sped'; did you mean 'speed'?"
    assert done.stderr.splitlines() == [rule]


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("print('well')", "ok"),
        ("raise SystemExit('broken')", "failed"),
        ("import time; print('begun', flush=True); time.sleep(60)", "cut"),
    ],
)
def test_a_part_ends_well_or_failed_or_is_cut_and_what_it_said_stays(
    tmp_path: Path, code: str, verdict: str
) -> None:
    began = time.monotonic()
    assert carried_out([sys.executable, "-c", code], tmp_path, 2.0, {}) == verdict
    assert time.monotonic() - began < 30
    assert (tmp_path / "output.log").read_text()


def test_what_a_part_has_started_ends_with_it(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    child = f"import time\nwhile True: open({str(beat)!r}, 'a').write('x'); time.sleep(0.02)"
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])"
    waits = f"\nwhile not __import__('os').path.exists({str(beat)!r}): time.sleep(0.02)"
    assert carried_out([sys.executable, "-c", code + waits], tmp_path, 30.0, {}) == "ok"
    size = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == size


def test_the_archive_has_every_result_and_no_weights(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name in ("speed/figures.jsonl", "long/short/metrics.jsonl", "long/model.safetensors"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(name)
    assert archive(results, tmp_path / "out" / "gpu.tar.xz") == []
    with tarfile.open(tmp_path / "out" / "gpu.tar.xz") as packed:
        names = packed.getnames()
    assert sorted(names) == [
        "gpu-results/long/short/metrics.jsonl",
        "gpu-results/speed/figures.jsonl",
    ]


def test_an_archive_that_would_be_too_large_leaves_the_largest_file_out(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "small.log").write_text("small")
    noise = subprocess.run(["head", "-c", "60000", "/dev/urandom"], capture_output=True, check=True)
    (results / "large.log").write_bytes(noise.stdout)
    assert archive(results, tmp_path / "gpu.tar.xz", limit=20_000) == ["large.log"]
    assert (tmp_path / "gpu.tar.xz").stat().st_size <= 20_000


def test_a_tree_that_is_not_installed_is_found_under_its_version(tmp_path: Path) -> None:
    env = environment(tmp_path / "no-wheels", tmp_path / "site")
    code = "import lengthen; print(lengthen.__version__, lengthen.__file__)"
    words = [sys.executable, "-P", "-c", code]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["0.1.0", str(ROOT / "lengthen/__init__.py")]


def test_torch_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "torch-2.13.0-py3-none-any.whl").touch()
    with pytest.raises(OSError, match="a wheel of torch is among them"):
        environment(tmp_path, tmp_path / "site")


def test_wheels_of_another_python_are_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pydantic_core-2.50.5-cp39-cp39-manylinux_2_17_x86_64.whl").touch()
    environment(tmp_path, tmp_path / "site")
    assert "they are for cp39, this is cp3" in capsys.readouterr().out


def rehearsed(folder: Path) -> Call:
    return Call(folder, 100.0, rehearse=True)


@pytest.mark.parametrize("name", long.NAMES)
def test_every_step_of_a_long_run_has_as_many_tokens(tmp_path: Path, name: str) -> None:
    config = long.configuration(rehearsed(tmp_path), long.LARGE, tmp_path, name, 200)
    shapes = [shape for _, shape in steps(config.schedule())]
    assert {shape.rows * shape.length for shape in shapes} == {131_072}
    assert len(shapes) == 200
    full = [shape.length for shape in shapes].index(16_384)
    assert (shapes[0].length, full) == ((16_384, 0) if name == "constant" else (256, 160))


@given(
    seconds=st.fixed_dictionaries({name: st.floats(0.001, 5) for name in long.NAMES}),
    whole=st.floats(10, 1000),
    share=st.floats(0, 1),
)
def test_the_long_runs_fit_in_and_constant_length_takes_a_third_at_most(
    seconds: dict[str, float], whole: float, share: float
) -> None:
    left = share * whole
    count = long.count_of(long.LARGE, seconds, whole, left)
    assert count >= long.LOOKS
    if count > long.LOOKS:
        assert count * seconds["constant"] <= whole / 3
        beside = long.READING + len(seconds) * long.BESIDE
        assert count * sum(seconds.values()) + beside <= left + 1e-6


def timed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step_seconds: TimedStep, limit: float
) -> SecondsTable:
    """Return the table of steps that take what `step_seconds` says, of lengths 64 to 512."""
    monkeypatch.setattr(seconds, "real_steps", lambda *_: step_seconds)
    call = rehearsed(folder)
    config = lengths.configuration(call, SHAPES["gpt2-117m"], 512)
    return seconds.seconds_by_length(call, "made", config, 64, 512, limit)


def test_seconds_a_token_are_the_median_of_rounds_and_are_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def step_seconds(rows: int, length: int, passes: int) -> float:
        calls.append(length)
        disturbed = len(calls) in (1, 12)  # in a round to warm up, and in one that counts
        return 100.0 if disturbed else length / 512

    table = timed(tmp_path, monkeypatch, step_seconds, 60.0)
    assert table.seconds_per_token == {n: n / 512 / 512 for n in (64, 128, 256, 512)}
    assert calls[:8] == [64, 128, 256, 512] * 2
    figures = map(json.loads, (tmp_path / "figures.jsonl").read_text().splitlines())
    counted = [len(line["step_seconds"]) for line in figures if "length" in line]
    assert counted == [seconds.TIMED] * 4
    assert read_seconds(tmp_path / "made.json") == table
    assert json.loads((tmp_path / "made.json").read_text())["format"] == 1


def test_a_length_that_does_not_fit_is_left_out_of_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_seconds(rows: int, length: int, passes: int) -> float:
        if length == 512:
            raise torch.OutOfMemoryError
        return 1.0

    table = timed(tmp_path, monkeypatch, step_seconds, 60.0)
    assert list(table.seconds_per_token) == [64, 128, 256]


def test_three_rounds_are_timed_whatever_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def step_seconds(rows: int, length: int, passes: int) -> float:
        calls.append(length)
        return 1.0

    timed(tmp_path, monkeypatch, step_seconds, 0.0)
    assert len(calls) == 4 * (seconds.WARM_UPS + seconds.LEAST)


KINDS = ("constant", *cliff.KINDS)


def of_cliff(folder: Path, kind: str) -> Config:
    call = Call(folder, 1.0, rehearse=False)
    config = cliff.configuration(call, cliff.LARGE, cliff.LARGE.shapes[0], folder, kind, 0.01)
    return settings.with_overrides(config, {"model": {"vocabulary": 512}})


@pytest.mark.parametrize("kind", KINDS)
def test_all_trainings_of_the_cliff_have_as_many_tokens_and_one_rate(
    tmp_path: Path, kind: str
) -> None:
    config = of_cliff(tmp_path, kind)
    shapes = [shape for _, shape in steps(config.schedule())]
    assert sum(shape.rows * shape.length for shape in shapes) == 5000 * 32_768
    assert shapes[-2].rows * shapes[-2].length == 32_768
    assert shapes[0].length == {"constant": 256, "slw": 8, "short": 32, "rows": 256}[kind]
    assert config.optimizer.betas == (0.9, 0.999)
    assert config.optimizer.learning_rate == 0.01


def test_rows_have_the_tokens_of_the_length_warmup_in_every_step(tmp_path: Path) -> None:
    slw, rows = (
        [shape.rows * shape.length for _, shape in steps(of_cliff(tmp_path, kind).schedule())]
        for kind in ("slw", "rows")
    )
    assert slw == rows


def test_a_narrower_model_gets_higher_rates() -> None:
    wide, narrow = (cliff.rates_of(cliff.LARGE, shape) for shape in cliff.LARGE.shapes[:2])
    assert wide == cliff.RATES
    assert narrow == tuple(2 * rate for rate in wide)


def test_a_rate_breaks_by_its_loss_its_probe_or_a_step_that_is_not_finite() -> None:
    calm = cliff.Outcome(0.005, 2.0, 1.1, 0)
    worse, jumped = cliff.Outcome(0.02, 2.4, 1.0, 0), cliff.Outcome(0.01, 2.1, 1.3, 0)
    overflowed, unfinished = cliff.Outcome(0.04, 2.1, 1.0, 1), cliff.Outcome(0.08, None, 1.0, 0)
    found = [calm, worse, jumped, overflowed, unfinished]
    assert cliff.broken(found) == [0.01, 0.02, 0.04]


def test_the_second_round_is_at_the_lowest_rates_that_broke_or_above_all() -> None:
    rates = (0.01, 0.02, 0.04, 0.08)
    at_broken = [("slw", 0.04), ("short", 0.04), ("rows", 0.04), ("slw", 0.08)]
    assert cliff.second_round(rates, [0.04, 0.08]) == at_broken
    above = [("constant", 0.16), ("slw", 0.16), ("constant", 0.32), ("slw", 0.32)]
    assert cliff.second_round(rates, []) == above


@pytest.mark.parametrize(("update", "chosen"), [(0.001, 0), (0.008, 1), (1.0, 2)])
def test_the_cliff_takes_the_largest_model_with_which_two_rounds_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: float, chosen: int
) -> None:
    """An update of the largest takes 4 times `update`, of the next one as long as it says."""
    shapes = cliff.LARGE.shapes
    monkeypatch.setattr(cliff, "train", lambda *_: None)
    factor = {
        f"trial-8-{shape['width']}": four for shape, four in zip(shapes, (4, 1), strict=False)
    }

    def of_update(_: Call, names: Iterable[str]) -> float:
        return update * factor["-".join(next(iter(names)).split("-")[:3])]

    monkeypatch.setattr(cliff, "seconds_of_an_update", of_update)
    end = time.monotonic() + 300
    assert cliff.shape_that_fits(rehearsed(tmp_path), cliff.LARGE, tmp_path, end) == shapes[chosen]


def test_the_seconds_of_an_update_are_of_the_middle_third_of_the_slowest(tmp_path: Path) -> None:
    for name, each in {"quick": 0.1, "slow": 0.2}.items():
        (tmp_path / name).mkdir()
        with closing(JsonLines(Disk(), RunPaths(tmp_path / name).metrics)) as log:
            for step in range(1, 10):
                so_far = 100 + each * step if 3 < step < 8 else 0.0
                log.write(to_json(StepRecord(step=step, loss=1.0, seconds=so_far)))
    found = cliff.seconds_of_an_update(rehearsed(tmp_path), ["quick", "slow"])
    assert found == pytest.approx(0.2)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training be Python code, which stands where its settings would."""
    monkeypatch.setattr(
        runs, "started", lambda _, __, code: subprocess.Popen([sys.executable, "-c", code])
    )


@pytest.mark.usefixtures("processes")
def test_trainings_run_at_once_and_end_at_the_end_of_their_time(tmp_path: Path) -> None:
    file = tmp_path / "beat"
    endless: Any = f"import time\nwhile True: open({str(file)!r}, 'a').write('x'); time.sleep(0.02)"
    began = time.monotonic()
    runs.train(rehearsed(tmp_path), {"one": endless, "other": endless}, 1.5)
    assert time.monotonic() - began < 20
    size = file.stat().st_size
    time.sleep(0.2)
    assert file.stat().st_size == size


@pytest.mark.usefixtures("processes")
def test_a_training_that_breaks_down_is_a_result_and_one_that_fails_is_none(tmp_path: Path) -> None:
    unstable: Any = f"raise SystemExit({UnstableError.exit_code})"
    runs.train(rehearsed(tmp_path), {"slw": unstable}, 60.0)
    broken: Any = "raise SystemExit(2)"
    with pytest.raises(RuntimeError, match="the training slw ended with exit code 2"):
        runs.train(rehearsed(tmp_path), {"slw": broken}, 60.0)


def test_what_a_training_that_was_cut_has_logged_is_written_down(tmp_path: Path) -> None:
    call = rehearsed(tmp_path)
    (tmp_path / "cut").mkdir()
    with closing(JsonLines(Disk(), RunPaths(tmp_path / "cut").metrics)) as log:
        log.write(to_json(StepRecord(step=7, loss=1.0, tokens=70, seconds=3.0)))
        log.write(to_json(EvalRecord(step=7, loss=2.0, tokens=70, seconds=3.0)))
    for name in ("cut", "never begun"):
        runs.write_outcome(call, name)
    cut, none = map(json.loads, (tmp_path / "figures.jsonl").read_text().splitlines())
    look = {"tokens": 70, "seconds": 3.0, "loss": 2.0}
    assert cut == {"run": "cut", "step": 7, "tokens": 70, "seconds": 3.0, "evaluations": [look]}
    assert none["step"] is None


def test_the_speed_table_has_the_trainer_and_the_bare_loop(tmp_path: Path) -> None:
    assert list(speed.contenders(rehearsed(tmp_path), 64, 512))[:2] == ["ours", "bare"]


def test_each_line_of_a_length_has_the_peak_of_all_contenders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = cycle((1, 7))  # each look forgets the peak: before the rounds, then after them
    monkeypatch.setattr(speed, "peak", lambda _: next(looks))
    made = {name: lambda: object for name in ("ours", "bare", "other")}
    monkeypatch.setattr(speed, "contenders", lambda *_: made)
    speed.table(rehearsed(tmp_path), 512, 1)
    lines = (tmp_path / "figures.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["peak_bytes_of_all"] for line in lines} == {7}


def test_the_text_that_travels_has_a_limit(tmp_path: Path) -> None:
    lines = store.library(tmp_path / "library.jsonl", 100_000).read_text().splitlines()
    assert 0 < sum(len(json.loads(line)["text"].encode()) for line in lines) <= 100_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_rehearsal_carries_every_part_out(tmp_path: Path) -> None:
    words = ["--rehearse", "--minutes", "60", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.gpu", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in PARTS:
        assert f"{part.name}: ok" in done.stdout.splitlines()
    with tarfile.open(tmp_path / "gpu-results.tar.xz") as packed:
        verdicts = packed.extractfile("gpu-results/verdicts.json")
        assert verdicts is not None
        assert json.loads(verdicts.read()) == {part.name: "ok" for part in PARTS}
        names = packed.getnames()
    for name in ("lengths", "long", "cliff", "speed"):
        assert f"gpu-results/{name}/figures.jsonl" in names
    assert {"gpu-results/machine.json", "gpu-results/tests/junit.xml"} <= set(names)


def test_the_card_is_told_in_the_drivers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert card() == {}
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.1, 81559 MiB, 700.00 W, 1980 MHz'\n"
    )
    tool.chmod(0o755)
    assert card()["name"] == "NVIDIA H100 80GB HBM3"
    assert card()["driver_version"] == "580.1"

"""`make gpu`: what it runs, what it does with its time, what it brings back."""

import json
import subprocess
import sys
import tarfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from lengthen.core.schedule import steps
from scripts.gpu import growth, lengths, speed, store
from scripts.gpu.__main__ import carried_out, chosen
from scripts.gpu.archive import archive
from scripts.gpu.install import ROOT, environment
from scripts.gpu.machine import card
from scripts.gpu.parts import PARTS, Call


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
    rule = "gpu: PARTS must be of tests, lengths, speed, growth; got 'sped'; did you mean 'speed'?"
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
    for name in ("speed/figures.jsonl", "growth/linear/metrics.jsonl", "growth/model.safetensors"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(name)
    assert archive(results, tmp_path / "out" / "gpu.tar.xz") == []
    with tarfile.open(tmp_path / "out" / "gpu.tar.xz") as packed:
        names = packed.getnames()
    assert sorted(names) == [
        "gpu-results/growth/linear/metrics.jsonl",
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


@pytest.mark.parametrize("grows", [False, True])
def test_both_runs_of_growth_have_equally_many_tokens_in_every_step(grows: bool) -> None:
    config = growth.configuration(growth.LARGE, Path("store"), "cuda", 600, grows=grows)
    shapes = [shape for _, shape in steps(config.schedule())]
    assert (shapes[0].length, shapes[-1].length) == (64 if grows else 4096, 4096)
    *whole, _ = shapes  # the budget may cut the last one
    assert all(65_536 - shape.length < shape.rows * shape.length <= 65_536 for shape in whole)


def test_a_run_that_grows_is_told_its_own_mean_seconds() -> None:
    by_length = {64: 1.0, 4096: 3.0}
    constant, linear = (
        growth.mean_seconds(
            by_length, growth.configuration(growth.LARGE, Path("store"), "cuda", 600, grows=grows)
        )
        for grows in (False, True)
    )
    assert constant == pytest.approx(3.0)
    assert linear == pytest.approx(0.2 * 3.0 + 0.8 * 2.0, rel=0.01)


def test_the_speed_table_has_the_trainer_and_the_bare_loop(tmp_path: Path) -> None:
    call = Call(tmp_path, 10.0, rehearse=True)
    assert list(speed.contenders(call, 64, 512))[:2] == ["ours", "bare"]
    assert list(lengths.lengths(lengths.SHORTEST, lengths.LONGEST)) == [2**n for n in range(6, 16)]


def test_the_text_that_travels_has_a_limit(tmp_path: Path) -> None:
    lines = store.library(tmp_path / "library.jsonl", 100_000).read_text().splitlines()
    assert 0 < sum(len(json.loads(line)["text"].encode()) for line in lines) <= 100_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_rehearsal_carries_every_part_out(tmp_path: Path) -> None:
    words = ["--rehearse", "--minutes", "25", "--out", str(tmp_path)]
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
    for name in ("lengths", "speed", "growth"):
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

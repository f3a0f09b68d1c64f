"""Other people's dashboards get what metrics.jsonl has, and training never waits for them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lengthen
from lengthen.cli.main import main
from lengthen.reporting.trackers import TRACKERS
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.run.records import Event, Record, StepRecord, to_json
from lengthen.util.errors import SettingError
from tests import ranks
from tests.ways_out import takes

SMALL: dict[str, Any] = {
    "model": {"layers": 1, "width": 16, "heads": 2, "length": 64},
    "batch": {"rows": 8, "micro_tokens": 512},
    "budget.tokens": 6000,
    "evaluation": {"every_tokens": 2000, "tokens": 512},
}
WORDS = [f"--{n}.{k}={v}" for n, of in SMALL.items() if isinstance(of, dict) for k, v in of.items()]
WORDS = [word for one in WORDS for word in one.split("=")] + ["--budget.tokens", "6000"]
# What stands in for a tracker's package, and is hung, killed or out of disk.
BROKEN = {
    "hung": "import time\ntime.sleep(60)\n",
    "killed": "import os\nos.kill(os.getpid(), 9)\n",
    "full": "raise OSError(28, 'No space left on device')\n",
}


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A run without a tracker, and what `on_record` got of it."""
    out, got = tmp_path_factory.mktemp("trained") / "run", list[Record]()
    lengthen.train("laptop-2min", out, data=store, settings=SMALL, quiet=True, on_record=got.append)
    return out, got


def lines(metrics: Metrics) -> list[Record]:
    """The records without what the clock on the wall says."""
    measured = [one for one in metrics.records if not isinstance(one, Event)]
    bare: list[Record] = [replace(one, seconds=None) for one in measured]
    return [
        one if isinstance(one, StepRecord | Event) else replace(one, side_seconds=None)
        for one in bare
    ]


def read_back(run: Path, axis: str) -> dict[str, list[tuple[int, float]]]:
    """What tensorboard's own reader finds, by tag."""
    module = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is a dev dependency",
    )
    folder = str(run / "tensorboard" / axis)
    try:
        events = module.EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
    except module.directory_watcher.DirectoryDeletedError:
        return {}  # a tracker begins it anew
    tags = events.Tags()["scalars"]
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in tags}


def expected(run: Path, axis: str) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl; a dashboard holds 32 bits of a number."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in read_metrics(run).records:
        if isinstance(record, Event):
            continue
        for name, value in to_json(record).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                points = found.setdefault(f"{record.kind}/{name}", [])
                points.append((getattr(record, axis), float(np.float32(value))))
    return {t: p for t, p in found.items() if not t.endswith(("/step", "/tokens"))}


@pytest.mark.parametrize("axis", ["step", "tokens"])
def test_a_report_to_tensorboard_has_what_the_log_has(
    trained: tuple[Path, list[Record]], axis: str
) -> None:
    run, _ = trained
    pytest.importorskip("tensorboard", reason="tensorboard is a dev dependency")
    (run.parent / "begins").mkdir(exist_ok=True)  # and has no step yet, nor a log
    (run.parent / "begins/config.toml").touch()
    for path in (run, run.parent):  # the second one replaces the first
        assert main(["report", str(path), "--to", "tensorboard"]) == 0
    assert read_back(run, axis) == expected(run, axis)
    assert len(expected(run, axis)["step/loss"]) > 10
    assert expected(run, axis)["eval/loss"]


def wandb_rows(file: Path) -> Iterator[dict[str, float]]:
    """What wandb wrote offline: records in blocks of 32 KiB, each with 7 bytes before it."""
    proto = import_module("wandb.proto.wandb_internal_pb2")
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole = (whole if kind in (3, 4) else b"") + data[at + 7 : at + 7 + size]
        at += 7 + size
        record = proto.Record()
        if kind in (1, 4) and record.ParseFromString(whole) and record.HasField("history"):
            items = record.history.item
            yield {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items}


def test_wandb_gets_the_log_offline_with_steps_and_tokens(
    trained: tuple[Path, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is a dev dependency")
    run = shutil.copytree(trained[0], tmp_path / "run")
    words = [sys.executable, "-m", "lengthen", "report", str(run), "--to", "wandb"]
    offline = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    subprocess.run(words, env=offline, check=True, capture_output=True)
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    rows = {int(row["_step"]): row for row in wandb_rows(file)}
    metrics = read_metrics(run)
    assert [(one.step, one.tokens) for one in metrics.steps] == [
        (step, row["tokens"]) for step, row in rows.items() if "step/loss" in row
    ]
    assert [one.loss for one in metrics.steps] == [rows[n.step]["step/loss"] for n in metrics.steps]
    last = metrics.evaluations[-1]
    assert rows[last.step]["eval/loss"] == last.loss


def test_on_record_gets_each_line_and_cannot_stop_the_training(
    trained: tuple[Path, list[Record]],
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, got = trained
    assert got == list(read_metrics(run).records)
    calls = []

    def breaks(record: Record) -> None:
        calls.append(record)
        raise OSError("dashboard is down")

    lengthen.train("laptop-2min", tmp_path / "run", data=store, settings=SMALL, on_record=breaks)
    assert len(calls) == 1
    said = "on_record failed, and is not called again: dashboard is down"
    assert said in capsys.readouterr().err
    assert lines(read_metrics(tmp_path / "run")) == lines(read_metrics(run))


def copied(run: Path, place: Path) -> Path:
    """Copy a run without what a report has written there."""
    return Path(shutil.copytree(run, place, ignore=shutil.ignore_patterns("tensorboard")))


def command(store: Path, out: Path, tracker: str = "tensorboard") -> list[str]:
    words = ["train", "laptop-2min", "--data", str(store), "--out", str(out), *WORDS]
    return [*words, "--quiet", "--run.trackers", tracker]


def train(store: Path, out: Path, *path: Path) -> float:
    """Train with a tracker in a process of its own, whose packages come from `path` first."""
    words = [sys.executable, "-m", "lengthen", *command(store, out)]
    found = os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")])
    began = time.monotonic()
    subprocess.run(words, env={**os.environ, "PYTHONPATH": found}, check=True, capture_output=True)
    return time.monotonic() - began


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_a_live_tracker_has_every_line_soon_after_the_end(
    trained: tuple[Path, list[Record]], store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is a dev dependency")
    train(store, tmp_path / "run")
    assert lines(read_metrics(tmp_path / "run")) == lines(read_metrics(trained[0]))
    wait_until(lambda: read_back(tmp_path / "run", "step") == expected(tmp_path / "run", "step"))


@pytest.mark.ranks
def test_of_two_ranks_one_reports(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is a dev dependency")
    run = tmp_path / "run"
    ranks.finish(ranks.commands(*[command(store, run)] * 2))
    wait_until(lambda: read_back(run, "step") == expected(run, "step"))
    assert len(list((run / "tensorboard/step").iterdir())) == 1


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_resumed_run_has_every_step_once(
    tracker: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tracker, reason="trackers are dev dependencies")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    # Saved at step 6, begun anew at once, while the first tracker still imports its package.
    again = ["resume", str(run), "--quiet", "--budget.tokens", "9000"]
    saving = ["--saving.every_steps", "6", "--evaluation.every_tokens", "1000"]
    ranks.finish(ranks.commands([*command(store, run, tracker), *saving]))
    (run / "checkpoints").joinpath(max(os.listdir(run / "checkpoints"))).rename(tmp_path / "lost")
    ranks.finish(ranks.commands(again))
    (resumed,) = (one for one in read_metrics(run).events if one.name == "resumed")
    assert resumed.facts["discarded_lines"] > 0
    wanted = [(one.step, one.tokens) for one in read_metrics(run).steps]
    assert (wanted[-1][1] or 0) > 8000

    def is_whole() -> bool:
        if tracker == "tensorboard":
            return read_back(run, "step") == expected(run, "step")
        files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
        rows = [row for row in wandb_rows(files[-1]) if "step/loss" in row] if files else []
        return [(row["_step"], row["tokens"]) for row in rows] == wanted

    wait_until(is_whole)


def test_a_tracker_waits_for_the_one_of_the_run_before(
    trained: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is a dev dependency")
    run = copied(trained[0], tmp_path / "run")

    def follow() -> "subprocess.Popen[bytes]":
        words = [sys.executable, "-m", "lengthen.reporting.trackers", str(run), "tensorboard"]
        with (run / "tracker-tensorboard.log").open("wb") as printed:
            return subprocess.Popen([*words, str(os.getpid())], stdout=printed, stderr=printed)

    def waits(process: "subprocess.Popen[bytes]") -> bool:
        locks = Path("/proc/locks").read_text().splitlines()
        return any("->" in line and f" {process.pid} " in line for line in locks)

    old = follow()
    wait_until(lambda: any(run.glob("tensorboard/step/*")))
    new = follow()
    try:
        wait_until(lambda: waits(new), 20)
        old.terminate()
        wait_until(lambda: read_back(run, "step") == expected(run, "step"))
    finally:
        for process in (old, new):
            process.kill()
            process.wait()


def test_f52_a_tracker_whose_disk_is_full_changes_no_line(
    trained: tuple[Path, list[Record]], store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is a dev dependency")
    run, other = (copied(trained[0], tmp_path / name) for name in ("run", "other"))
    (run / "tensorboard").mkdir()
    # A disk of four pages, in a namespace of its own, which is there as long as the tracker is.
    small = f'mount -t tmpfs -o size=16k none {run}/tensorboard && exec "$@"'
    unshared = ["unshare", "-rm", "sh", "-c", small, "sh"]
    if subprocess.run([*unshared, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system mounts nothing for an ordinary user")
    lengthen.resume(other, settings={"budget.tokens": 20_000}, quiet=True)
    words = [sys.executable, "-m", "lengthen", "resume", str(run), "--budget.tokens", "20000"]
    subprocess.run([*unshared, *words, "--run.trackers", "tensorboard"], check=True)
    assert lines(read_metrics(run)) == lines(read_metrics(other))
    printed = run / "tracker-tensorboard.log"
    wait_until(lambda: "No space left on device" in printed.read_text())


@pytest.mark.parametrize("fate", list(BROKEN))
def test_f52_a_tracker_that_is_hung_killed_or_out_of_disk_changes_no_line(
    fate: str, trained: tuple[Path, list[Record]], store: Path, tmp_path: Path
) -> None:
    package = tmp_path / "packages" / "tensorboard"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"import os\nopen({str(tmp_path / 'began')!r}, 'w').write(str(os.getpid()))\n{BROKEN[fate]}"
    )
    assert train(store, tmp_path / "run", package.parent) < 55
    assert lines(read_metrics(tmp_path / "run")) == lines(read_metrics(trained[0]))
    wait_until((tmp_path / "began").exists)
    if fate == "hung":
        os.kill(int((tmp_path / "began").read_text()), 9)
    if fate == "full":
        log = tmp_path / "run" / "tracker-tensorboard.log"
        wait_until(lambda: "No space left on device" in log.read_text())


@takes('pip install "lengthen[trackers]"')
def test_a_tracker_that_is_not_there_is_refused_before_training(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(tracker: str) -> None:
        settings = {**SMALL, "run": {"trackers": [tracker]}}
        lengthen.train("laptop-2min", tmp_path / "run", data=store, settings=settings)

    with pytest.raises(SettingError, match="run.trackers: must be 'tensorboard' or 'wandb', got"):
        train("wandbb")
    monkeypatch.setattr("lengthen.reporting.trackers.find_spec", lambda _: None)
    message = 'run.trackers: needs the package wandb; pip install "lengthen.trackers."'
    with pytest.raises(SettingError, match=message):
        train("wandb")
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        SettingError, match="--to: no such tracker, got 'board'; did you mean 'tens"
    ):
        lengthen.report(tmp_path, to="board")


def test_what_a_tracker_raises_is_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is a dev dependency")

    def fails(run: Path) -> Any:
        raise ValueError("No API key configured.")

    monkeypatch.setitem(TRACKERS, "tensorboard", fails)
    lengthen.train("laptop-2min", tmp_path / "run", data=store, settings=SMALL)
    message = r"--to: tensorboard failed \(No API key configured\.\), got '.*run'$"
    with pytest.raises(SettingError, match=message):
        lengthen.report(tmp_path / "run", to="tensorboard")


def test_a_tracker_gets_runs_and_no_other_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is a dev dependency")
    log = tmp_path / "log.csv"
    log.write_text("s,l\n1,2\n")
    with pytest.raises(SettingError, match="--to: is for directories of runs, not for a log"):
        lengthen.report(log, columns={"step": "s", "loss": "l"}, to="tensorboard")

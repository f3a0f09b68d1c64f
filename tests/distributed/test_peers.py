"""A rank that dies: the others say so and save nothing; a launcher restarts them by itself."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.write import write_checkpoint
from lengthen.config.schema import Config, Run
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.launch import join_process_group
from lengthen.run.directory import RunPaths, owned
from lengthen.run.metrics import read_metrics
from lengthen.training.start import train
from lengthen.util.disk import Disk
from lengthen.util.errors import CheckpointError, StorageError
from tests.checkpoint.test_read import FILES, save, tensors
from tests.conftest import AskFor, Configure
from tests.distributed.test_sharded import finished, same, steps, torchrun
from tests.ranks import Rank, commands, results
from tests.ways_out import takes

pytestmark = pytest.mark.ranks


def training(config: Config, folder: Path, run: str = "run") -> list[str]:
    (folder / "config.toml").write_text(config.to_toml())
    return ["train", str(folder / "config.toml"), "--quiet", "--out", str(folder / run)]


def error_line(errors: str) -> str:
    """The one line of ours in what a rank wrote to its error stream."""
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("lengthen:")]
    return line


def wait_until_after(run: Path, step: int, process: "Rank | subprocess.Popen[str]") -> None:
    begun = time.monotonic()
    while not RunPaths(run).metrics.exists() or len(steps(run)) <= step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < begun + 120
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("sharded", "dead"),
    [
        (False, 0),
        (True, 1),
        pytest.param(False, 1, marks=pytest.mark.slow),
        pytest.param(True, 0, marks=pytest.mark.slow),
    ],
)
def test_f22_who_is_left_says_so_and_saves_nothing(
    configured: Configure, tmp_path: Path, dead: int, sharded: bool
) -> None:
    config = configured(
        budget={"tokens": 4_000_000}, run={"sharded": sharded}, saving={"every_steps": 4}
    )
    command = training(config, tmp_path)
    both = commands(command, command)
    wait_until_after(tmp_path / "run", 5, both[0])
    both[dead].kill()
    _, errors = both[1 - dead].communicate(timeout=60)
    assert both[1 - dead].returncode == 9
    log = RunPaths(tmp_path / "run").metrics
    line = error_line(errors)
    assert f"rank {1 - dead} lost another rank after step" in line
    saved = [line for line in read_metrics(log).events if line.name == "saved"]
    assert line.endswith(f"continues from {saved[-1].facts['name']}")
    assert dead == 0 or not list(RunPaths(tmp_path / "run").checkpoints.glob(".tmp-*"))
    both[dead].communicate()


def test_f24_a_signal_to_one_rank_stops_all_of_them_after_the_same_step(
    configured: Configure, tmp_path: Path
) -> None:
    command = training(
        configured(budget={"tokens": 4_000_000}, saving={"every_steps": 0}), tmp_path
    )
    both = commands(command, command)
    wait_until_after(tmp_path / "run", 5, both[0])
    both[1].send_signal(signal.SIGTERM)
    lines = [error_line(rank.communicate(timeout=120)[1]) for rank in both]
    assert [rank.returncode for rank in both] == [143, 143]
    last = steps(tmp_path / "run")[-1].step
    assert all(line.startswith(f"lengthen: stopped after step {last}, ") for line in lines)
    assert checkpoint.load_newest(RunPaths(tmp_path / "run").checkpoints)[0].step == last


def loaded(how: str, *folders: list[Path]) -> list[list[tuple[int, list[str]]]]:
    """What each rank loads from each of its folders: step and notes, or 0 and the error."""

    def newest(folder: Path, context: DistributedContext) -> tuple[int, list[str]]:
        try:
            newest, notes = checkpoint.load_newest(folder, context)
        except CheckpointError as error:
            return 0, [str(error)]
        return newest.step, notes

    def load_all(mine: list[Path]) -> list[tuple[int, list[str]]]:
        with join_process_group(Run(device="cpu", sharded=how == "sharded")) as context:
            return [newest(folder, context) for folder in mine]

    return results(*(partial(load_all, mine) for mine in folders))


@pytest.mark.parametrize("how", [pytest.param("replicated", marks=pytest.mark.slow), "sharded"])
def test_f06_ranks_hash_a_checkpoint_together_and_what_one_finds_counts_for_all(
    tmp_path: Path, how: str
) -> None:
    damaged = [name for name in FILES if name != "manifest.json"]
    folders = [tmp_path / name for name in (*damaged, "good", "hopeless")]
    for folder in folders:
        for step in (1, 2):
            save(folder, step)
        for path in folder.glob("*" if folder.name == "hopeless" else "step-00000002"):
            if folder.name != "good":
                file = path / (folder.name if folder.name in damaged else damaged[0])
                file.write_bytes(bytes(file.stat().st_size))
    first, second = loaded(how, folders, folders)
    assert [step for step, _ in first] == [step for step, _ in second] == [1, 1, 1, 2, 0]
    for name, (_, notes) in zip(damaged, first, strict=False):
        assert notes == [
            f"checkpoint step-00000002 damaged: {name} sha256 differs; using step-00000001"
        ]
    assert first[-1][1][0].count("sha256 differs") == 2


def test_f16_ranks_take_the_newest_checkpoint_that_is_the_same_to_all_of_them(
    tmp_path: Path,
) -> None:
    views = {name: tmp_path / name for name in ("fresh", "stale", "other")}
    for step in (1, 2):
        save(views["fresh"], step)
    save(views["stale"], 1)
    save(views["other"], 1)
    write_checkpoint(Disk(), views["other"], 2, tensors(3), {})
    for pair in (("fresh", "stale"), ("stale", "fresh"), ("fresh", "other")):
        found = loaded("replicated", *([views[name]] for name in pair))
        assert [newest for ((newest, _),) in found] == [1, 1]


@takes("put it on a disk that all of them share")
@pytest.mark.parametrize("command", ["train", "resume"])
def test_f26_ranks_that_see_different_directories_are_told_which_and_train_nothing(
    configured: Configure, tmp_path: Path, command: str
) -> None:
    config = configured(budget={"tokens": 2_000}, saving={"every_steps": 0})
    asked = [training(config, tmp_path, run) for run in ("one", "other")]
    if command == "resume":
        for run in ("one", "other"):
            train(config, tmp_path / run, quiet=True)
        asked = [["resume", str(tmp_path / run), "--quiet"] for run in ("one", "other")]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    both = commands(*asked)
    lines = [error_line(rank.communicate(timeout=120)[1]) for rank in both]
    assert [rank.returncode for rank in both] == [2, 2]
    assert all("rank 1 sees another than rank 0" in line for line in lines)
    assert all("put it on a disk that all of them share" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == before
    again = commands(asked[0], asked[0])
    assert [rank.communicate(timeout=120) and rank.returncode for rank in again] == [0, 0]


def test_f26_ranks_with_other_settings_or_another_store_are_told_which_and_train_nothing(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(budget={"tokens": 2_000}, saving={"every_steps": 0})
    command = training(config, tmp_path)
    clipped = [*command, "--optimizer.clip", "0.5"]
    both = commands(command, clipped)
    lines = [error_line(rank.communicate(timeout=120)[1]) for rank in both]
    assert [rank.returncode for rank in both] == [2, 2]
    rule = "optimizer.clip: must be the same on all ranks; rank 0 has 1.0, rank 1 0.5"
    assert lines == [f"lengthen: {rule}"] * 2
    assert not list((tmp_path / "run").glob("*.toml"))


@takes("run the command again")
def test_f26_a_rank_that_does_not_see_the_run_yet_starts_no_other_one(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(budget={"tokens": 2_000}, saving={"every_steps": 0})
    train(config, tmp_path / "run", quiet=True)
    command = training(config, tmp_path)
    both = commands([*command, "--resume", "auto"], [*command, "--overwrite"])
    lines = [error_line(rank.communicate(timeout=120)[1]) for rank in both]
    assert [rank.returncode for rank in both] == [2, 2]
    rule = "rank 0 is to resume from the newest checkpoint, rank 1 to train anew"
    assert all(f"{rule}: a shared disk is late" in line for line in lines)
    assert all("run the command again" in line for line in lines)
    assert checkpoint.load_newest(RunPaths(tmp_path / "run").checkpoints)
    again = commands(*[[*command, "--resume", "auto"]] * 2)
    assert [rank.communicate(timeout=120) and rank.returncode for rank in again] == [0, 0]


def passage_of_a_sync(config: Config, folder: Path, ask_for: AskFor) -> int:
    """Return the file operation on the log at which a save forces its lines onto the disk."""
    for number in range(3, 50):
        ask_for(f"log:{number}:eio")
        with suppress(StorageError):
            train(config, folder / str(number), quiet=True)
            log = read_metrics(RunPaths(folder / str(number)).metrics)
            assert any(event.name == "save_failed" for event in log.events)
            ask_for("")
            return number
    raise AssertionError("no save forces the log onto the disk")


@pytest.mark.parametrize("asynchronous", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_f05_a_log_that_cannot_be_forced_onto_the_disk_is_a_failed_save_of_all_ranks(
    configured: Configure, tmp_path: Path, ask_for: AskFor, asynchronous: bool
) -> None:
    saves = {"every_steps": 4, "keep": 2, "asynchronous": asynchronous}
    config = configured(budget={"tokens": 4_000}, saving=saves)
    command = training(config, tmp_path)
    both = commands(
        command, command, first=f"log:{passage_of_a_sync(config, tmp_path, ask_for)}:eio"
    )
    errors = [rank.communicate(timeout=120)[1] for rank in both]
    assert [rank.returncode for rank in both] == [0, 0], errors
    log = read_metrics(RunPaths(tmp_path / "run").metrics)
    (failed,) = (event for event in log.events if event.name == "save_failed")
    assert "metrics.jsonl: input/output error" in failed.facts["reason"]
    assert log.events[-1].name == "finished"


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_f27_a_rank_that_hangs_is_waited_for_as_long_as_was_set(
    configured: Configure, tmp_path: Path, sharded: bool
) -> None:
    config = configured(
        budget={"tokens": 4_000_000},
        run={"sharded": sharded, "timeout_seconds": 4},
        saving={"every_steps": 4},
    )
    command = training(config, tmp_path)
    both = commands(command, command, last="step:7:sleep")
    line = error_line(both[0].communicate(timeout=120)[1])
    both[1].kill()
    both[1].communicate()
    assert both[0].returncode == 9
    waited = "rank 0 waited 4 s (run.timeout_seconds) for another rank after step 6"
    assert waited in line
    assert line.endswith("continues from step-00000004")


def test_f18_a_second_run_of_several_ranks_in_one_directory_is_one_line_on_each(
    configured: Configure, tmp_path: Path
) -> None:
    command = training(configured(), tmp_path)
    with owned(tmp_path / "run"):
        both = commands(command, command)
        lines = [error_line(rank.communicate(timeout=120)[1]) for rank in both]
    assert [rank.returncode for rank in both] == [5, 9]
    assert f"in use by pid {os.getpid()}" in lines[0]
    assert "rank 1 lost another rank" in lines[1]


def worker(launcher: "subprocess.Popen[str]", rank: int) -> int:
    """The process of a rank below a launcher."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher.pid and f"RANK={rank}".encode() in environment:
            return int(process.name)
    raise AssertionError("no such rank")


def test_f22_f23_the_launcher_brings_a_run_to_its_end_whose_worker_was_killed(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(
        budget={"tokens": 14_000},
        run={"precision": "fp64", "sharded": True},
        saving={"every_steps": 3},
    )
    train(config, tmp_path / "unbroken", quiet=True)
    (tmp_path / "config.toml").write_text(config.to_toml())
    run = tmp_path / "run"
    words = ("train", str(tmp_path / "config.toml"), "--quiet", "--resume", "auto")
    launcher = torchrun(2, *words, "--out", str(run), before=("--max-restarts", "3"))
    wait_until_after(run, 8, launcher)
    os.kill(worker(launcher, 1), signal.SIGKILL)
    finished(launcher)
    same(steps(run), steps(tmp_path / "unbroken"), 1e-9, 1e-6)
    events = [line.name for line in read_metrics(RunPaths(run).metrics).events]
    assert "resumed" in events

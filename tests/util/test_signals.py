"""A signal ends a run with everything saved, wherever in its work it comes."""

import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from lengthen.checkpoint import read as checkpoint
from lengthen.config.schema import Config
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import resume, train
from lengthen.util import signals
from lengthen.util.signals import StopSignal
from tests.checkpoint.test_kills import resumes_to_the_same_end
from tests.conftest import AskFor, Configure, in_a_child
from tests.distributed.test_peers import training
from tests.training.test_resume import lines_of

LENGTHEN = [sys.executable, "-m", "lengthen"]
TERMINATED = 128 + signal.SIGTERM
SAVES = {"every_steps": 3, "keep": 1}


def saved_to_the_last_line(run: Path) -> bool:
    paths = RunPaths(run)
    newest = checkpoint.load_newest(paths.checkpoints)[0].step
    nothing_left = not list(paths.checkpoints.glob(".t*"))
    return nothing_left and newest == read_metrics(paths.metrics).steps[-1].step


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_f17_a_signal_at_any_operation_of_a_save_lets_it_finish(
    configured: Configure, tmp_path: Path, ask_for: AskFor, stride: int
) -> None:
    config = configured(budget={"tokens": 1_500}, saving=SAVES)
    train(config, tmp_path / "unbroken", quiet=True)
    for at in range(2, 1000, stride):
        run = tmp_path / str(at)
        ask_for(f"save:{at}:term")
        code = in_a_child(partial(train, config, run, quiet=True))
        ask_for("")
        if not code:
            break  # the run was over before it had so many operations
        assert code == TERMINATED
        assert saved_to_the_last_line(run)
        resumes_to_the_same_end(config, run, tmp_path / "unbroken")
    assert at > 60


@pytest.mark.parametrize("at", [2, 9])
def test_f17_a_signal_that_comes_by_several_ways_is_one_and_the_save_is_finished(
    configured: Configure, tmp_path: Path, ask_for: AskFor, at: int
) -> None:
    # As SLURM tells a launcher and its child, and the launcher tells the child again.
    config = configured(budget={"tokens": 1_500}, saving=SAVES)
    ask_for(f"save:{20 + at}-{22 + at}:term")
    code = in_a_child(lambda: train(config, tmp_path / "run", quiet=True))
    ask_for("")
    assert code == TERMINATED
    assert saved_to_the_last_line(tmp_path / "run")


@pytest.mark.parametrize(
    ("seconds", "ended"), [([0, 0], False), ([0, 4.9], False), ([0, 1, 5.1], True), ([0, 60], True)]
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_within_five_seconds_of_the_first_are_one_request(
    seconds: list[float], ended: bool, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        with StopSignal().listening() as stop:
            for each, now in zip([signal.SIGTERM, number, number], seconds, strict=False):
                monkeypatch.setattr(time, "monotonic", lambda now=now: 100.0 + now)
                os.kill(os.getpid(), each)
            assert stop.number == signal.SIGTERM

    assert in_a_child(work) == (-number if ended else 0)


@pytest.mark.parametrize("at", [2, 9])
def test_f17_a_later_signal_ends_the_process_at_once_and_costs_only_that_save(
    configured: Configure,
    tmp_path: Path,
    ask_for: AskFor,
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "ONE_REQUEST_SECONDS", 0.0)
    config = configured(budget={"tokens": 1_500}, saving=SAVES)
    train(config, tmp_path / "unbroken", quiet=True)
    ask_for(f"save:{20 + at}-{21 + at}:term")
    code = in_a_child(lambda: train(config, tmp_path / "run", quiet=True))
    ask_for("")
    assert code == -signal.SIGTERM
    assert list(RunPaths(tmp_path / "run").checkpoints.glob(".tmp-*"))
    resumes_to_the_same_end(config, tmp_path / "run", tmp_path / "unbroken")


@pytest.mark.parametrize("step", [1, 4, 5])
def test_f19_a_signal_in_a_step_lets_it_finish_and_saves_it(
    configured: Configure, tmp_path: Path, ask_for: AskFor, step: int
) -> None:
    config = configured(budget={"tokens": 1_500}, saving={"every_steps": 0})
    train(config, tmp_path / "unbroken", quiet=True)
    ask_for(f"step:{step}:term")
    assert in_a_child(lambda: train(config, tmp_path / "run", quiet=True)) == TERMINATED
    ask_for("")
    assert saved_to_the_last_line(tmp_path / "run")
    assert checkpoint.load_newest(RunPaths(tmp_path / "run").checkpoints)[0].step == step
    resumes_to_the_same_end(config, tmp_path / "run", tmp_path / "unbroken")


def signalled_after(seconds: float, config: Config, run: Path) -> int:
    def work() -> None:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()
        train(config, run, quiet=True)

    return in_a_child(work)


@pytest.mark.parametrize("seeds", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_f19_a_signal_at_any_moment_costs_nothing(
    configured: Configure, tmp_path: Path, seeds: int
) -> None:
    config = configured(budget={"tokens": 1_500}, saving=SAVES)
    train(config, tmp_path / "unbroken", quiet=True)
    for seed in range(seeds):
        run = tmp_path / str(seed)
        code = signalled_after(random.Random(seed).uniform(0.05, 0.6), config, run)
        # Before and after training there is nothing to save, and a signal ends any process.
        assert code in (0, TERMINATED, -signal.SIGTERM)
        assert code != TERMINATED or saved_to_the_last_line(run)
        resumes_to_the_same_end(config, run, tmp_path / "unbroken")


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_f20_a_signal_in_any_micro_batch_of_an_evaluation_gives_it_up_and_a_resume_does_it(
    configured: Configure, tmp_path: Path, ask_for: AskFor, number: int
) -> None:
    # 20 sequences, four a batch: five batches.
    evaluation = {"every_steps": 3, "tokens": 20 * 64, "probe_every_steps": 0}
    config = configured(budget={"tokens": 800}, evaluation=evaluation, saving={"every_steps": 0})
    train(config, tmp_path / "unbroken", quiet=True)
    run = tmp_path / "run"
    ask_for(f"eval:{number}:term")
    assert in_a_child(lambda: train(config, run, quiet=True)) == TERMINATED
    ask_for("")
    assert saved_to_the_last_line(run)
    assert checkpoint.load_newest(RunPaths(run).checkpoints)[0].step == 3
    assert lines_of(run, "eval") == []
    resume(run, quiet=True)
    for kind in ("eval", "step"):
        assert lines_of(run, kind) == lines_of(tmp_path / "unbroken", kind)


@pytest.mark.usefixtures("hears_hangups")
def test_f21_a_terminal_that_is_closed_ends_the_run_with_everything_saved(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(budget={"tokens": 4_000_000}, saving={"every_steps": 0})
    command = [*LENGTHEN, *training(config, tmp_path)]
    command.remove("--quiet")
    child, terminal = pty.fork()
    if not child:
        os.execv(command[0], command)
    metrics = RunPaths(tmp_path / "run").metrics
    while not (metrics.exists() and metrics.stat().st_size > 2000):
        os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP
    assert saved_to_the_last_line(tmp_path / "run")


def test_f21_a_reader_of_the_output_that_is_gone_stops_nothing(
    configured: Configure, tmp_path: Path
) -> None:
    command = [*LENGTHEN, *training(configured(budget={"tokens": 1_500}), tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
        with subprocess.Popen(["head", "-1"], stdin=run.stdout, stdout=subprocess.PIPE) as head:
            assert run.stdout is not None
            run.stdout.close()
            assert head.communicate()[0].startswith(b"run")
        assert run.wait() == 0
    events = read_metrics(RunPaths(tmp_path / "run").metrics).events
    assert events[-1].name == "finished"


def test_a_thread_of_a_host_program_trains_and_hears_no_signals(
    configured: Configure, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        config = configured(budget={"tokens": 500})
        summary = pool.submit(train, config, tmp_path / "run", quiet=True).result()
        assert summary.steps > 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handler_that_is_not_of_python_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    known = signal.getsignal

    def of_the_program_around(number: int) -> object:
        return None if number == signal.SIGHUP else known(number)

    monkeypatch.setattr(signal, "getsignal", of_the_program_around)
    before = known(signal.SIGHUP)
    with StopSignal().listening() as stop:
        assert known(signal.SIGHUP) == before
        assert known(signal.SIGTERM) == stop._receive
    assert known(signal.SIGHUP) == before

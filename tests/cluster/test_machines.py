"""Machines that die and come back: two network namespaces with a link between them."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lengthen.checkpoint.verify import verify
from lengthen.config.schema import Config
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.records import Event
from tests.cluster.machines import NAMES, Machines, Process, two_machines
from tests.conftest import Configure
from tests.distributed.test_sharded import same, steps, written

FILE = Path(__file__).parents[2] / "examples/cluster/each-node.sh"
TIMEOUT = 20  # seconds of `run.timeout_seconds`; the file says 120
PATIENCE = 240.0
GOES_ON = 120.0  # seconds after the link or the machine is back

pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def config(configured: Configure) -> Config:
    return configured(
        budget={"tokens": 300_000},
        run={"precision": "fp64"},
        evaluation={"every_steps": 0, "probe_every_steps": 0},
        saving={"every_steps": 50, "keep": 2},
    )


@pytest.fixture(scope="module")
def unbroken(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two machines that nothing happens to."""
    folder = tmp_path_factory.mktemp("unbroken")
    with two_machines(folder) as machines:
        pair = Pair(machines, config)
        assert [process.wait(PATIENCE) for process in pair.on.values()] == [0, 0]
    return pair.run


class Pair:
    """The same words on two machines, and the run that they train."""

    def __init__(self, machines: Machines, config: Config, nodes: str = "2") -> None:
        self.machines, self.nodes, self.run = machines, nodes, machines.folder / "run"
        self.words = [written(config, machines.folder / "config.toml"), config.data.path or ""]
        self.on = {name: self.start(name) for name in NAMES}
        self.until_after(60)

    def start(self, name: str) -> Process:
        """Give the words on a machine, for the first time or again."""
        more = [str(self.run), "--run.timeout_seconds", str(TIMEOUT)]
        variables = {"NODES": self.nodes, "HEAD": "node1:29500", "PROCESSES": "1"}
        return self.machines.start(name, FILE, *self.words, *more, **variables)

    def until_after(self, step: int, seconds: float = PATIENCE) -> None:
        log = RunPaths(self.run).metrics
        late = time.monotonic() + seconds
        while not log.exists() or len(steps(self.run)) <= step:
            assert time.monotonic() < late, "it does not go on"
            time.sleep(0.05)

    def workers_ended(self) -> float:
        """Wait until no machine has a process that trains; return the seconds that took."""
        begun = time.monotonic()
        while any(self.workers(name) for name in NAMES):
            assert time.monotonic() < begun + PATIENCE, "they do not end"
            time.sleep(0.05)
        return time.monotonic() - begun

    def workers(self, name: str) -> list[int]:
        return [pid for pid in self.machines.processes(name) if is_rank(pid)]

    def goes_on(self, resumed: int = 1) -> None:
        """Assert that a step is trained within two minutes, after so many resumes in all."""
        begun = time.monotonic()
        while not self.trained_since(resumed):
            assert time.monotonic() < begun + GOES_ON, self.events()
            time.sleep(0.05)

    def trained_since(self, resumed: int) -> bool:
        found = [event.step for event in self.events() if event.name == "resumed"]
        return len(found) >= resumed and len(steps(self.run)) > found[-1]

    def finished_as(self, unbroken: Path, *, again: bool = True, alike: bool = True) -> None:
        """Wait for the end of both: 0, and the losses of the unbroken run.

        To the last digit where the number of ranks was always `alike`.
        """
        codes = {name: process.wait(PATIENCE) for name, process in self.on.items()}
        printed = [self.machines.printed(name) for name in NAMES]
        assert codes == {"node1": 0, "node2": 0}, printed
        same(steps(self.run), steps(unbroken), 1e-6, 1e-6)
        assert not alike or losses(self.run) == losses(unbroken)
        assert again == ("resumed" in [e.name for e in self.events()])

    def events(self) -> list[Event]:
        return read_metrics(RunPaths(self.run).metrics).events

    def trained_again(self) -> list[object]:
        """The steps that each resume set aside."""
        return [e.facts["discarded_lines"] for e in self.events() if e.name == "resumed"]


def losses(run: Path) -> list[float | None]:
    return [step.loss for step in steps(run)]


def is_rank(pid: int) -> bool:
    try:
        return b"\0LOCAL_RANK=" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def has_sigterm(pid: int) -> bool:
    """Return whether SIGTERM waits for a process that is stopped."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [line.split()[1] for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


@pytest.fixture
def pair(tmp_path: Path, config: Config) -> Iterator[Pair]:
    with two_machines(tmp_path) as machines:
        yield Pair(machines, config)


def test_a_link_that_is_down_for_eight_seconds_costs_nothing(pair: Pair, unbroken: Path) -> None:
    pair.machines.link(up=False)
    time.sleep(8)
    there = len(steps(pair.run))
    pair.machines.link(up=True)
    pair.until_after(there, GOES_ON)
    pair.finished_as(unbroken, again=False)


def test_a_link_that_is_down_for_a_minute_costs_a_restart(pair: Pair, unbroken: Path) -> None:
    pair.machines.link(up=False)
    assert TIMEOUT - 2 < pair.workers_ended() < TIMEOUT + 25
    time.sleep(60 - TIMEOUT)
    pair.machines.link(up=True)
    pair.goes_on()
    pair.finished_as(unbroken)


def test_a_link_that_stays_down_leaves_a_whole_checkpoint_for_the_same_words_again(
    pair: Pair, unbroken: Path
) -> None:
    pair.machines.link(up=False)
    pair.workers_ended()
    verify(pair.run)
    for name in NAMES:
        pair.on[name].terminate()
    assert pair.on["node1"].wait(60) == 1
    pair.machines.kill("node2")  # where it waits for the network, it is deaf to SIGTERM
    pair.machines.link(up=True)
    pair.on = {name: pair.start(name) for name in NAMES}
    pair.goes_on()
    pair.finished_as(unbroken)


def test_a_worker_that_is_killed_is_started_again(pair: Pair, unbroken: Path) -> None:
    (worker,) = pair.workers("node2")
    os.kill(worker, signal.SIGKILL)
    pair.goes_on()
    pair.finished_as(unbroken)


def test_a_machine_that_is_killed_joins_again_with_the_same_words(
    pair: Pair, unbroken: Path
) -> None:
    pair.machines.kill("node2")
    assert pair.workers_ended() < 10
    time.sleep(10)
    pair.on["node2"] = pair.start("node2")
    pair.goes_on()
    pair.finished_as(unbroken)


def test_the_head_that_is_killed_ends_the_other_and_both_take_the_same_words_again(
    pair: Pair, unbroken: Path
) -> None:
    pair.machines.kill("node1")
    assert pair.on["node2"].wait(60) == 1
    pair.on = {name: pair.start(name) for name in NAMES}
    pair.goes_on()
    pair.finished_as(unbroken)


def test_a_launcher_that_is_killed_leaves_its_worker_to_train_to_the_end(
    pair: Pair, unbroken: Path
) -> None:
    pair.on["node2"].kill()
    pair.until_after(len(steps(unbroken)) - 1)
    pair.workers_ended()
    assert [event.name for event in pair.events()][-1] == "finished"
    assert losses(pair.run) == losses(unbroken)
    assert pair.trained_again() == []


def test_fewer_machines_go_on_alone_and_take_one_back(
    tmp_path: Path, config: Config, unbroken: Path
) -> None:
    with two_machines(tmp_path) as machines:
        pair = Pair(machines, config, nodes="1:2")
        machines.kill("node2")
        begun = len(steps(pair.run))
        pair.until_after(begun + 30)  # alone
        (worker,) = pair.workers("node1")
        os.kill(worker, signal.SIGSTOP)  # or it might be at its end before the other is there
        pair.on["node2"] = pair.start("node2")
        late = time.monotonic() + PATIENCE
        while not has_sigterm(worker):
            assert time.monotonic() < late, "it does not join"
            time.sleep(0.1)
        os.kill(worker, signal.SIGCONT)
        pair.goes_on(resumed=2)
        pair.finished_as(unbroken, alike=False)
        _, *rest = pair.trained_again()
        assert rest == [0]  # nothing is lost when it comes back

"""The launch file on a real SLURM: out of time, a node killed, cancelled, preempted."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.start import train
from tests.cli.test_launch import lay_out
from tests.cluster.slurm import Slurm, slurm, wait_for
from tests.conftest import Configure
from tests.distributed.test_sharded import same, steps
from tests.util.test_signals import saved_to_the_last_line

FILE = Path(__file__).parents[2] / "examples/cluster/slurm.sbatch"
ROOT = str(FILE.parents[2])
PATIENCE = 200.0  # seconds: the machine of the tests may be busy

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def unbroken(
    cluster: Slurm, configured: Configure, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of one process that nobody touches; its settings lie in the cluster's directory."""
    config = configured(
        budget={"tokens": 150_000},
        run={"precision": "fp64"},
        evaluation={"every_steps": 0, "probe_every_steps": 0},
        saving={"every_steps": 50, "keep": 2},
    )
    (cluster.folder / "config.toml").write_text(config.to_toml())
    out = tmp_path_factory.mktemp("unbroken") / "run"
    train(config, out, quiet=True)
    return out


@dataclass(frozen=True)
class Job:
    """A job and its run."""

    cluster: Slurm
    number: str
    run: Path

    def fact(self, name: str) -> str:
        words = self.cluster.run("scontrol", "show", "job", self.number).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def wait_for(self, *states: str) -> None:
        wait_for(lambda: self.fact("JobState") in states, PATIENCE)

    def wait_until_after(self, step: int) -> None:
        log = RunPaths(self.run).metrics
        wait_for(lambda: log.exists() and len(steps(self.run)) > step, PATIENCE)

    def wait_for_the_queue(self, restarts: int = 1) -> None:
        """Wait until it is back in the queue, where it need not wait the two minutes."""
        wait_for(
            lambda: (self.fact("JobState"), self.fact("Restarts")) == ("PENDING", str(restarts)),
            PATIENCE,
        )
        time.sleep(2)  # a node refuses a job in the second in which it ended it
        self.cluster.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")

    @property
    def printed(self) -> str:
        return (self.cluster.folder / f"slurm-{self.number}.out").read_text()

    def finished_as(self, unbroken: Path) -> None:
        """Wait for its end, which must be that of the run that nobody touched."""
        self.wait_for("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL")
        assert self.fact("JobState") == "COMPLETED", self.printed
        same(steps(self.run), steps(unbroken), 1e-9, 1e-6)
        assert not list(self.cluster.folder.glob("*.exit"))


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PROCESSES": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT, "PATH": path}


def submitted(cluster: Slurm, out: str, *more: str, **variables: str) -> Job:
    """Submit the file as it is shipped."""
    words = ["sbatch", str(FILE), "config.toml", "--out", out, *more]
    number = cluster.run(*words, **environment(), **variables).split()[-1]
    return Job(cluster, number, cluster.folder / out)


def discarded(run: Path) -> list[object]:
    """Return how many lines each resume set aside: steps that were trained in vain."""
    events = read_metrics(RunPaths(run).metrics).events
    return [event.facts["discarded_lines"] for event in events if event.name == "resumed"]


def test_a_job_out_of_time_saves_goes_back_into_the_queue_and_finishes(
    cluster: Slurm, unbroken: Path
) -> None:
    job = submitted(cluster, "time")
    job.wait_until_after(60)
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    job.wait_for_the_queue()
    assert saved_to_the_last_line(job.run)
    job.finished_as(unbroken)
    assert discarded(job.run) == [0]


def test_a_wrong_setting_is_said_once_and_is_the_exit_code_of_the_job(
    cluster: Slurm, unbroken: Path
) -> None:
    assert unbroken.exists()
    job = submitted(cluster, "wrong", "--optimizer.clip", "-3")
    job.wait_for("FAILED")
    assert job.fact("ExitCode") == "2:0"
    assert job.printed == "lengthen: optimizer.clip: must be at least 0, got -3\n"


@pytest.mark.slow
def test_an_error_in_training_is_the_exit_code_of_the_job_and_is_not_tried_again(
    cluster: Slurm, unbroken: Path
) -> None:
    assert unbroken.exists()
    job = submitted(cluster, "unstable", LENGTHEN_FAULT="step:5:nan")
    job.wait_for("FAILED", "COMPLETED")
    assert job.fact("ExitCode") == "6:0", job.printed
    assert job.printed.count("is not finite; weights are untouched") == 2  # one of each process


@pytest.mark.slow
def test_a_job_whose_process_was_killed_goes_on_by_itself(cluster: Slurm, unbroken: Path) -> None:
    job = submitted(cluster, "worker")
    job.wait_until_after(60)
    os.kill(processes_of_node(job, 1)[-1], signal.SIGKILL)
    job.finished_as(unbroken)
    assert job.fact("Restarts") == "0"


def processes_of_node(job: Job, node: int) -> list[int]:
    """The processes of a job on one of its nodes, and the steps' own of SLURM above them."""
    mine = {f"SLURM_JOB_ID={job.number}".encode(), f"SLURM_NODEID={node}".encode()}
    mine.add(f"SLURM_CONF={job.cluster.folder}/slurm.conf".encode())
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mine <= set((process / "environ").read_bytes().split(b"\0")):
                found.add(int(process.name))
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if Path(f"/proc/{parent}/comm").read_text() == "slurmstepd\n":
                    found.add(parent)
        except OSError:
            continue
    return sorted(found)


@pytest.mark.slow
def test_a_job_whose_node_was_killed_is_requeued_by_slurm_and_finishes(
    cluster: Slurm, unbroken: Path
) -> None:
    job = submitted(cluster, "node")
    job.wait_until_after(60)
    node = cluster.nodes[1]
    for pid in [cluster.daemon(node), *processes_of_node(job, 1)]:
        os.kill(pid, signal.SIGKILL)
    job.wait_for_the_queue()
    job.finished_as(unbroken)  # on the node that was spare
    cluster.start_node(node)
    (lines,) = discarded(job.run)
    assert isinstance(lines, int)
    assert lines < 100  # as often as it saves, and what was trained until the node was missed


@pytest.mark.slow
def test_a_job_that_was_launched_and_cancelled_saves_first(cluster: Slurm, unbroken: Path) -> None:
    launch = "launch slurm config.toml --out cancelled --nodes 2 --gpus 8 --time 1:00:00 --submit"
    said = cluster.run(sys.executable, "-m", "lengthen", *launch.split(), **environment())
    job = Job(cluster, said.split()[-1], cluster.folder / "cancelled")
    job.wait_until_after(60)
    cluster.run("scancel", job.number)
    job.wait_for("CANCELLED")
    wait_for(cluster.is_idle, 60)
    assert saved_to_the_last_line(job.run)
    again = submitted(cluster, "cancelled")
    again.finished_as(unbroken)
    assert discarded(job.run) == [0]


@pytest.mark.slow
def test_a_preempted_job_saves_first_and_goes_on_later(cluster: Slurm, unbroken: Path) -> None:
    job = submitted(cluster, "preempted")
    job.wait_until_after(60)
    cluster.run("sbatch", "-p", "urgent", "-N3", "--exclusive", "--wrap", "true")
    job.wait_for_the_queue()
    assert saved_to_the_last_line(job.run)
    job.finished_as(unbroken)
    assert discarded(job.run) == [0]


@pytest.mark.slow
def test_a_comparison_as_an_array_is_that_of_one_machine_though_a_task_was_killed(
    cluster: Slurm, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask, there = str(lay_out(store, tmp_path)), tmp_path / "compared"
    assert main(["compare", ask, "--out", str(tmp_path / "here"), "--quiet"]) == 0
    array = f"launch slurm-array {there} --gpus 1 --cpus 8 --time 60 --to {tmp_path}/array.sbatch"
    assert main(array.split()) == 0
    variables = environment() | {"LENGTHEN_FAULT": "step:3:exit"}  # in every try of one task
    words = ["sbatch", "--parsable", "--array"]
    killed = cluster.run(*words, "1", tmp_path / "array.sbatch", **variables).strip()
    others = cluster.run(*words, "0,2-5", tmp_path / "array.sbatch", **environment()).strip()
    wait_for(lambda: not cluster.run("squeue", "-h").strip(), 2 * PATIENCE)
    assert "FAILED" in cluster.run("scontrol", "show", "job", killed)
    assert "FAILED" not in cluster.run("scontrol", "show", "job", others)
    capsys.readouterr()
    assert main(["compare", ask, "--out", str(there), "--look"]) == 0
    assert "1 run still to be finished" in capsys.readouterr().out
    trained = {path: path.read_bytes() for path in there.rglob("metrics.jsonl")}
    assert main(["compare", ask, "--lay-out", str(there)]) == 0
    assert len((there / "commands.txt").read_text().splitlines()) == 1
    assert main([*array.split()[:-1], f"{tmp_path}/again.sbatch"]) == 0
    cluster.run("sbatch", tmp_path / "again.sbatch", **environment())
    wait_for(lambda: not cluster.run("squeue", "-h").strip(), PATIENCE)
    for path in (tmp_path / "here").rglob("metrics.jsonl"):
        mine = there / path.relative_to(tmp_path / "here")
        assert [s.loss for s in steps(mine.parent)] == [s.loss for s in steps(path.parent)]
    changed = [path for path in trained if path.read_bytes() != trained[path]]
    assert len(changed) <= 1  # nothing is trained twice

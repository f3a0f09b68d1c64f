"""A SLURM of three nodes on this machine, from Debian's packages; no root, no systemd, no munge."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
CONFIGURATION = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
SlurmdTimeout=10
KillWait=20
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=32 Gres=gpu:8\n"


class Slurm:
    """Two nodes and a spare one; the head of a job is the first, whose name must lead here."""

    nodes = ("127.0.0.1", "node2", "node3")

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().partition(".")[0]
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def up(self) -> None:
        """Start all of it; raises AssertionError, or what the system says, where it does not."""
        ports = [free_port() for _ in range(4)]
        nodes = [
            NODE.format(name=name, host=self.host, port=port)
            for name, port in zip(self.nodes, ports, strict=False)
        ]
        import pwd

        user = pwd.getpwuid(os.getuid()).pw_name
        text = CONFIGURATION.format(
            host=self.host, folder=self.folder, port=ports[3], user=user, nodes="".join(nodes)
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "state").mkdir()
        cards = [self.folder / f"gpu{number}" for number in range(8)]
        for card in cards:
            card.touch()
        names = ",".join(self.nodes)
        gres = f"AutoDetect=off\nNodeName={names} Name=gpu File={self.folder}/gpu[0-7]\n"
        (self.folder / "gres.conf").write_text(gres)
        self.run("slurmctld", "-c")
        for name in self.nodes:
            (self.folder / f"spool-{name}").mkdir()
            self.start_node(name)
        wait_for(self.is_idle, 20)

    def is_idle(self) -> bool:
        """Return whether all nodes are there and have nothing to do."""
        return self.run("sinfo", "-h", "-p", "all", "-t", "idle", "-o", "%D").strip() == "3"

    def start_node(self, name: str) -> None:
        self.run("slurmd", "-N", name)

    def daemon(self, name: str) -> int:
        """Return the process of a node."""
        return int((self.folder / f"slurmd-{name}.pid").read_text())

    def run(self, *words: str | Path, **variables: str) -> str:
        """Run one of its commands; return what that prints."""
        done = subprocess.run(
            list(map(str, words)),
            env={**self.environment, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def down(self) -> None:
        """End all that it started, jobs first."""
        with suppress(AssertionError):
            self.run("scancel", "--full", "--signal=KILL", "--user", str(os.getuid()))
            self.run("scancel", "--user", str(os.getuid()))
            wait_for(lambda: not self.run("squeue", "-h").strip(), 30)
        daemons = [int(file.read_text()) for file in self.folder.glob("*.pid")]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in daemons:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, "waited too long"
        time.sleep(0.1)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Give a running SLURM, or skip the test where there is none."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"there is no SLURM on this machine: no `{program}`")
    cluster = Slurm(folder)
    try:
        try:
            cluster.up()
        except AssertionError as error:
            pytest.skip(f"there is no SLURM on this machine that starts: {error}")
        yield cluster
    finally:
        cluster.down()

"""Two machines as network namespaces with a link between them; each has its name and its hosts."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

NAMES = ("node1", "node2")
AS_A_MACHINE = 'mount --bind "$1" /etc/hosts; hostname "$2"; shift 2; exec "$@"'
Process = subprocess.Popen[bytes]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Machines:
    """`node1` at 10.77.0.1 and `node2` at 10.77.0.2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = ExitStack()
        self._namespaces = {name: f"{name}-{os.getpid()}" for name in NAMES}

    def build(self) -> None:
        """Make both and their link; raises CalledProcessError where that is not allowed."""
        for namespace in self._namespaces.values():
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        first, second = self._namespaces.values()
        ip(*f"link add wire netns {first} type veth peer name wire netns {second}".split())
        for number, namespace in enumerate(self._namespaces.values(), start=1):
            ip("-n", namespace, "addr", "add", f"10.77.0.{number}/24", "dev", "wire")
        self.link(up=True)

    def link(self, *, up: bool) -> None:
        for namespace in self._namespaces.values():
            ip("-n", namespace, "link", "set", "wire", "up" if up else "down")

    def start(
        self, name: str, *words: str | Path, own_address: str = "", **variables: str
    ) -> Process:
        """Start a command on a machine whose own name leads to its address, or to another."""
        hosts = self.folder / f"hosts-{name}{own_address}"
        others = {each: f"10.77.0.{number}" for number, each in enumerate(NAMES, start=1)}
        mine = {**others, name: own_address or others[name]}
        lines = [f"{address} {each}\n" for each, address in mine.items()]
        hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        log = (self.folder / f"{name}.log").open("ab")
        self._files.callback(log.close)
        inside = ["ip", "netns", "exec", self._namespaces[name], "unshare", "-m", "-u"]
        process = subprocess.Popen(
            [*inside, "sh", "-c", AS_A_MACHINE, "sh", str(hosts), name, *map(str, words)],
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._files.callback(process.wait)
        return process

    def printed(self, name: str) -> str:
        """Return all that commands on a machine have printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def processes(self, name: str) -> list[int]:
        """Return the processes on a machine."""
        words = ["ip", "netns", "pids", self._namespaces[name]]
        listed = subprocess.run(words, capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]

    def kill(self, name: str) -> None:
        """Let a machine die: every process on it by SIGKILL."""
        for pid in self.processes(name):
            os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        for name, namespace in self._namespaces.items():
            self.kill(name)
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)
        self._files.close()


@contextmanager
def two_machines(folder: Path) -> Iterator[Machines]:
    """Give two machines, or skip the test where namespaces cannot be had."""
    if shutil.which("ip") is None:
        pytest.skip("there are no network namespaces on this machine: no `ip`")
    machines = Machines(folder)
    try:
        try:
            machines.build()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"there are no network namespaces on this machine: {error.stderr}")
        yield machines
    finally:
        machines.remove()

"""Memory that really runs out: under a limit of the system, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from lengthen.distributed import memory
from tests.conftest import Configure
from tests.ranks import commands

LIMITED = """
import resource, sys
from pathlib import Path
import torch
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import fit_check
from lengthen.training.fit import trial_fits
from lengthen.config.load import load
from lengthen.training.trainer import Trainer

torch.set_num_threads(1)
config = load(sys.argv[1])[0]
store = open_store(config)
config = with_store(config, store)
context, whole = DistributedContext(torch.device("cpu")), config.batch.micro_tokens
trainer = Trainer(config, store, context, whole)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 120 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""
FIT = "print(fit_check(whole, 64, lambda size: trial_fits(config, store, context, size)))"
STEP = "print(trainer.micro_tokens if trainer.step().finite else 0)"


@pytest.mark.slow
@pytest.mark.parametrize("work", [FIT, STEP], ids=["f34 fit check", "f35 step"])
def test_f34_f35_what_the_allocator_refuses_is_tried_again_in_smaller_micro_batches(
    configured: Configure, tmp_path: Path, work: str
) -> None:
    config = configured(
        model={"width": 128, "layers": 2},
        batch={"rows": 256, "micro_tokens": 256 * 64},
        pacing={"kind": "constant"},
        budget={"tokens": 40_000},
    )
    (tmp_path / "config.toml").write_text(config.to_toml())
    command = [sys.executable, "-c", LIMITED + work, str(tmp_path / "config.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 64 <= int(done.stdout) < 256 * 64


@pytest.mark.ranks
def test_f35_of_several_ranks_none_tries_again_and_all_end(
    configured: Configure, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(configured().to_toml())
    words = ["train", str(tmp_path / "config.toml"), "--quiet", "--out", str(tmp_path / "run")]
    both = commands(words, words, last="step:5:oom")
    errors = [rank.communicate()[1] for rank in both]
    assert [rank.returncode for rank in both] == [9, 7], errors
    lines = [[t for t in text.splitlines() if t.startswith("lengthen:")] for text in errors]
    assert [len(errors) for errors in lines] == [1, 1]
    assert "--batch.micro_tokens 128` continues from it" in lines[1][0]
    assert "rank 0 lost another rank after step 4" in lines[0][0]


@pytest.mark.parametrize(
    ("own", "limit"),
    [
        ("0::/\n", "memory.max"),  # as a container has it
        ("0::/system.slice/slurmstepd.scope/job_7/step_0\n", "system.slice/memory.max"),
        ("0::/user.slice/run.scope\n", "user.slice/run.scope/memory.max"),
        ("9:pids:/\n4:memory:/slurm/job_7\n0::/\n", "memory/slurm/job_7/memory.limit_in_bytes"),
        ("4:memory:/docker/c0ffee\n0::/\n", "memory/memory.limit_in_bytes"),
    ],
)
def test_the_limit_of_any_group_around_the_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, limit: str
) -> None:
    (tmp_path / "own").write_text(own)
    (file := tmp_path / "groups" / limit).parent.mkdir(parents=True)
    file.write_text("1000000\n")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    assert memory.cpu_memory_limit() == 800_000
    file.write_text("max\n")
    assert memory.cpu_memory_limit() > 800_000

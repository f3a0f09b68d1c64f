"""How a checkpoint comes to be and goes: at every moment it is whole, or none."""

import errno
import json
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint import write
from lengthen.checkpoint.verify import damage, list_checkpoints, name_of
from lengthen.checkpoint.write import delete_old, remove_incomplete, safetensors_of
from lengthen.util.disk import Disk
from lengthen.util.errors import StorageError
from tests.checkpoint.test_read import save
from tests.conftest import AskFor, in_a_child


@given(
    shapes=st.dictionaries(
        st.text(min_size=1), st.lists(st.integers(0, 4), max_size=3), max_size=5
    ),
    double=st.booleans(),
)
def test_the_library_reads_what_we_write_in_its_format(
    shapes: dict[str, list[int]], double: bool
) -> None:
    made = torch.Generator().manual_seed(len(shapes))
    dtype = torch.float64 if double else torch.float32
    group = {n: torch.randn(s, generator=made, dtype=dtype) for n, s in shapes.items()}
    found = load(b"".join(safetensors_of(group)))
    assert found.keys() == group.keys()
    for name, tensor in group.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


def test_f03_a_fault_at_every_single_operation_of_a_save_loses_nothing(tmp_path: Path) -> None:
    """The counting loop: fail operation 1, 2, 3 ... until the save completes untouched."""
    fault = 0
    while True:
        fault += 1
        folder = tmp_path / str(fault)
        save(folder, 1)

        def fail(number: int, name: str, path: Path, at: int = fault) -> None:
            if number == at:
                raise OSError(errno.ENOSPC, "full")

        disk = Disk(before=fail)
        try:
            save(folder, 2, disk)
        except StorageError:
            loaded, _ = checkpoint.load_newest(folder)
            # The rename is the commit: a fault after it leaves the new one, before it the old one.
            assert loaded.step in (1, 2)
            assert all(not damage(path) for path in list_checkpoints(folder))
            remove_incomplete(Disk(), folder)
            assert all(path.name.startswith("step-") for path in folder.iterdir())
            save(folder, 2)
            assert checkpoint.load_newest(folder)[0].step == 2
        else:
            break
    assert fault > 12  # a directory, four files of three operations, three to commit


def test_whoever_may_read_a_run_may_read_its_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "plain").mkdir()
    made, plain = ((tmp_path / name).stat().st_mode for name in ("step-00000001", "plain"))
    assert oct(made) == oct(plain)


def test_rotation_keeps_the_newest_good_ones_and_never_counts_a_damaged_one(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    (tmp_path / "step-00000010" / "state.json").unlink()
    delete_old(Disk(), tmp_path, 2, set())
    left = [path.name for path in list_checkpoints(tmp_path)]
    assert left == ["step-00000010", "step-00000003", "step-00000002"]


def test_rotation_reads_a_checkpoint_again_only_where_that_decides_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def looked_at(path: Path) -> list[str]:
        looked.append(path.name)
        return damage(path)

    monkeypatch.setattr(write, "damage", looked_at)
    for step in (1, 2, 3):
        save(tmp_path, step)
    looked.clear()
    verified = {name_of(3)}
    delete_old(Disk(), tmp_path, 3, verified)
    assert not looked  # nothing is to go
    delete_old(Disk(), tmp_path, 2, verified)
    assert looked == [name_of(2)]  # of the one that goes nobody asks
    assert verified == {name_of(3), name_of(2)}


def test_f13_a_kill_during_rotation_leaves_nothing_half_deleted_in_the_list(tmp_path: Path) -> None:
    for fault in range(1, 4):
        folder = tmp_path / str(fault)
        for step in (1, 2):
            save(folder, step)

        def die(number: int, name: str, path: Path, at: int = fault) -> None:
            if number == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            delete_old(Disk(before=die), folder, 1, set())
        assert all(not damage(path) for path in list_checkpoints(folder))
        remove_incomplete(Disk(), folder)
        assert not list(folder.glob(".t*"))


def test_f13_a_process_killed_at_any_operation_of_a_rotation_leaves_only_whole_ones(
    tmp_path: Path, ask_for: AskFor
) -> None:
    for at in range(1, 20):
        folder = tmp_path / str(at)
        for step in (1, 2, 3):
            save(folder, step)
        ask_for(f"save:{at}:kill")
        code = in_a_child(partial(delete_old, Disk().at("save"), folder, 1, set()))
        if not code:
            break
        assert code == -signal.SIGKILL
        assert checkpoint.load_newest(folder)[0].step == 3
        assert all(not damage(path) for path in list_checkpoints(folder))
        ask_for("")
        remove_incomplete(Disk(), folder)
        delete_old(Disk(), folder, 1, set())
        assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    assert at == 7  # two go, each by a rename, a sync and a removal


def test_a_good_checkpoint_of_the_same_step_is_kept(tmp_path: Path) -> None:
    first = (save(tmp_path, 1) / "manifest.json").stat().st_ino
    disk = Disk()
    save(tmp_path, 1, disk)
    assert disk.operations == 0
    assert (tmp_path / "step-00000001" / "manifest.json").stat().st_ino == first


def test_f04_too_little_space_is_known_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(StorageError, match="a checkpoint needs .* bytes, 100 are free"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert sorted(entry.name for entry in path.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    json.loads((path / "state.json").read_bytes())

"""Checkpoints: whole or not at all, and every byte looked at before it is believed."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from lengthen import checkpoint
from lengthen.checkpoint import Tensors
from lengthen.disk import Disk
from lengthen.errors import CheckpointError, StorageError


def tensors(value: float) -> dict[str, Tensors]:
    return {
        "model": {"a": torch.full((3, 2), float(value)), "b": torch.arange(4.0) + value},
        "optimizer": {"a.step": torch.tensor(float(value))},
    }


def save(folder: Path, step: int, disk: Disk | None = None) -> Path:
    return checkpoint.save(disk or Disk(), folder, step, tensors(step), {"value": step / 3})


def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path: Path) -> None:
    save(tmp_path, 7)
    loaded, notes = checkpoint.load_newest(tmp_path)
    assert (loaded.step, loaded.state["value"], notes) == (7, 7 / 3, [])
    for name, group in tensors(7).items():
        for key, value in group.items():
            assert torch.equal(loaded.tensors[name][key], value)


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
    found = load(b"".join(checkpoint.safetensors_of(group)))
    assert found.keys() == group.keys()
    for name, tensor in group.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


def test_a_fault_at_every_single_operation_of_a_save_loses_nothing(tmp_path: Path) -> None:
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
            # The rename is the commit: a fault behind it leaves the new one, before it the old one.
            assert loaded.step in (1, 2)
            assert all(not checkpoint.damage(path) for path in checkpoint.listed(folder))
            checkpoint.sweep(Disk(), folder)
            assert all(path.name.startswith("step-") for path in folder.iterdir())
            save(folder, 2)
            assert checkpoint.load_newest(folder)[0].step == 2
        else:
            break
    assert fault > 12  # a directory, four files of three operations, three to commit


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_flipped_bit_is_found_and_the_older_one_used(
    tmp_path: Path, name: str, place: str
) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    data = bytearray(file.read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 1
    file.write_bytes(data)
    loaded, notes = checkpoint.load_newest(tmp_path)
    assert loaded.step == 1
    said = f"checkpoint step-00000002 damaged: {name} sha256 differs"
    assert notes == [f"{said}; using step-00000001"]


def test_a_shorter_longer_or_missing_file_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / "state.json"
    whole = file.read_bytes()
    for data in (whole[:-1], whole + b"x", b""):
        file.write_bytes(data)
        assert checkpoint.damage(file.parent) == [
            f"state.json has {len(data)} bytes, should have {len(whole)}"
        ]
    file.unlink()
    assert checkpoint.damage(file.parent) == ["state.json no such file or directory"]


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[]", b"null", b"[" * 10**6, b'{"sha256": 1}', b'{"format":1,"sha256":"x"}'],
    ids=["empty", "cut", "list", "null", "nested", "unsealed", "wrong seal"],
)
def test_a_bad_manifest_is_damage_and_never_a_crash(tmp_path: Path, manifest: bytes) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (path / "manifest.json").write_bytes(manifest)
    assert checkpoint.damage(path)
    assert checkpoint.load_newest(tmp_path)[0].step == 1


def test_a_manifest_cannot_reach_outside_its_directory(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 1)
    (tmp_path / "secret").write_bytes(b"s")
    shutil.move(path / "state.json", tmp_path / "state.json")
    (path / "state.json").symlink_to(tmp_path / "state.json")
    assert "state.json" in checkpoint.damage(path)[0]


def test_a_renamed_directory_is_not_believed(tmp_path: Path) -> None:
    save(tmp_path, 1).rename(tmp_path / "step-00000009")
    with pytest.raises(CheckpointError, match=r"step-00000009 damaged: manifest\.json: is that of"):
        checkpoint.load_newest(tmp_path)


def test_where_every_one_is_damaged_each_reason_is_given(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="step-00000002 damaged: .*step-00000001 damaged: "):
        checkpoint.load_newest(tmp_path)
    with pytest.raises(CheckpointError, match="none was saved"):
        checkpoint.load_newest(tmp_path / "nothing")


def test_one_asked_for_by_name_has_no_stand_in(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_step(tmp_path, "step-00000002")
    with pytest.raises(CheckpointError, match="there are: step-00000002, step-00000001"):
        checkpoint.load_step(tmp_path, "step-00000003")


def test_a_newer_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="has format 2, this version reads 1"):
        checkpoint.load_newest(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells")
def test_loading_takes_memory_for_what_is_used_alone(tmp_path: Path) -> None:
    large = {"model": {"a": torch.ones(64, 2**18)}}  # 64 MiB
    checkpoint.save(Disk(), tmp_path, 1, large, {})
    before = own_memory()
    loaded, _ = checkpoint.load_newest(tmp_path)
    rows = loaded.tensors["model"]["a"][:4].clone()
    assert rows.eq(1).all()
    assert own_memory() - before < 2**24


def own_memory() -> int:
    """Return the bytes that this process holds and no file does."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("Anonymous:")]
    return 1024 * int(line.split()[1])


def test_rotation_keeps_the_newest_good_ones_and_never_counts_a_damaged_one(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    (tmp_path / "step-00000010" / "state.json").unlink()
    checkpoint.rotate(Disk(), tmp_path, 2, set())
    left = [path.name for path in checkpoint.listed(tmp_path)]
    assert left == ["step-00000010", "step-00000003", "step-00000002"]


def test_a_kill_during_rotation_leaves_nothing_half_deleted_in_the_list(tmp_path: Path) -> None:
    for fault in range(1, 4):
        folder = tmp_path / str(fault)
        for step in (1, 2):
            save(folder, step)

        def die(number: int, name: str, path: Path, at: int = fault) -> None:
            if number == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            checkpoint.rotate(Disk(before=die), folder, 1, set())
        assert all(not checkpoint.damage(path) for path in checkpoint.listed(folder))
        checkpoint.sweep(Disk(), folder)
        assert not list(folder.glob(".t*"))


def test_a_good_checkpoint_of_the_same_step_is_kept(tmp_path: Path) -> None:
    first = (save(tmp_path, 1) / "manifest.json").stat().st_ino
    disk = Disk()
    save(tmp_path, 1, disk)
    assert disk.operations == 0
    assert (tmp_path / "step-00000001" / "manifest.json").stat().st_ino == first


def test_too_little_space_is_known_before_anything_is_written(
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

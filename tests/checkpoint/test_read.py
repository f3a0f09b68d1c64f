"""Checkpoints: whole or not at all, and every byte looked at before it is believed."""

import hashlib
import json
import os
import random
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint import write as commit
from lengthen.checkpoint.read import Tensors
from lengthen.checkpoint.verify import damage, manifest_bytes, verify
from lengthen.checkpoint.write import write_checkpoint
from lengthen.util.disk import Disk
from lengthen.util.errors import CheckpointError, SettingError, shown
from tests.conftest import AskFor


def tensors(value: float) -> dict[str, Tensors]:
    return {
        "model": {"a": torch.full((3, 2), float(value)), "b": torch.arange(4.0) + value},
        "optimizer": {"a.step": torch.tensor(float(value))},
    }


def save(folder: Path, step: int, disk: Disk | None = None) -> Path:
    return write_checkpoint(disk or Disk(), folder, step, tensors(step), {"value": step / 3})


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path: Path) -> None:
    save(tmp_path, 7)
    loaded, notes = checkpoint.load_newest(tmp_path)
    assert (loaded.step, loaded.state["value"], notes) == (7, 7 / 3, [])
    for name, group in tensors(7).items():
        for key, value in group.items():
            assert torch.equal(loaded.tensors[name][key], value)


@pytest.mark.parametrize("name", FILES)
def test_f06_one_flipped_bit_anywhere_is_found_and_the_older_one_used(
    tmp_path: Path, name: str
) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    whole = file.read_bytes()
    chance = random.Random(name)
    ends = [0, len(whole) // 2, len(whole) - 1]
    for at in [*ends, *(chance.randrange(len(whole)) for _ in range(100))]:
        data = bytearray(whole)
        data[at] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        loaded, (note,) = checkpoint.load_newest(tmp_path)
        assert loaded.step == 1
        assert note.startswith(f"checkpoint step-00000002 damaged: {name}")
        assert note.endswith("; using step-00000001")
        if name != "manifest.json":
            assert f"{name} sha256 differs" in note
    file.write_bytes(whole)
    assert checkpoint.load_newest(tmp_path)[0].step == 2  # nothing was deleted


@pytest.mark.parametrize("name", FILES)
def test_f07_f08_a_shorter_longer_or_missing_file_is_found(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    whole = file.read_bytes()
    for data in (whole[:-1], whole + b"x", b""):
        file.write_bytes(data)
        (problem,) = damage(file.parent)
        assert problem.startswith(f"{name}")
        if name != "manifest.json":
            assert problem == f"{name} has {len(data)} bytes, should have {len(whole)}"
        assert checkpoint.load_newest(tmp_path)[0].step == 1
    file.unlink()
    assert damage(file.parent) == [f"{name} no such file or directory"]
    assert checkpoint.load_newest(tmp_path)[0].step == 1


def test_f08_a_file_too_many_does_no_harm_and_verify_names_it(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "notes.md").write_text("mine")
    assert damage(path) == []
    assert "warning: step-00000001 also has notes.md" in verify(path)


def test_a_checkpoint_is_verified_from_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    monkeypatch.chdir(tmp_path / "step-00000001")
    assert verify(Path()) == ["checkpoint step-00000001: every byte as its manifest says"]


@pytest.mark.parametrize("saved", [[1], [1, 2]])
def test_a_checkpoint_that_training_deletes_while_it_is_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: list[int]
) -> None:
    def run() -> Path:
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        (tmp_path / "config.toml").touch()
        for step in saved:
            save(tmp_path / "checkpoints", step)
        return tmp_path / "checkpoints"

    def rotating(path: Path, part: slice = slice(None)) -> list[str]:
        if path.name == f"step-{saved[-1]:08d}" and path.exists():
            save(path.parent, 3)
            shutil.rmtree(path)
        return damage(path, part)

    for module in ("read", "verify"):
        monkeypatch.setattr(f"lengthen.checkpoint.{module}.damage", rotating)
    loaded, notes = checkpoint.load_newest(run())
    left = 3 if saved == [1] else 1
    assert (loaded.step, notes) == (left, [])
    run()
    whole = f"checkpoint step-0000000{left}: every byte as its manifest says"
    assert verify(tmp_path) == [whole]


def test_a_checkpoint_that_is_not_there_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="DIR: must be a token store, a run or a checkpoint"):
        verify(tmp_path / "step-00000003")


def test_verify_names_a_way_out_only_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    (save(tmp_path / "checkpoints", 1) / "state.json").unlink()
    for path in (tmp_path, tmp_path / "checkpoints" / "step-00000001"):
        with pytest.raises(CheckpointError, match="no such file or directory$"):
            verify(path)
    save(tmp_path / "checkpoints", 2)
    with pytest.raises(CheckpointError, match="; resume uses the newest good one$"):
        verify(tmp_path)


def test_f09_a_size_that_is_no_number_and_no_text_either_is_damage(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"]["state.json"]["size"] = "\ud800" * 1000
    (path / "manifest.json").write_bytes(manifest_bytes(manifest))
    loaded, (note,) = checkpoint.load_newest(tmp_path)
    assert loaded.step == 1
    assert len(note) < 300


def test_f08_f47_only_what_the_manifest_lists_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    other = save(tmp_path / "other", 2)
    (path / "model-r00001-of-00002.safetensors").symlink_to(other / "model.safetensors")
    (path / "optimizer-r00001-of-00002.safetensors").write_bytes(
        (other / "optimizer.safetensors").read_bytes()
    )
    (path / "._model.safetensors").write_bytes(b"what another system leaves beside a copy")
    loaded, notes = checkpoint.load_newest(tmp_path)
    assert not notes
    for name, group in tensors(1).items():
        assert dict(loaded.tensors[name]).keys() == group.keys()
        for key, value in group.items():
            assert torch.equal(loaded.tensors[name][key], value)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 10**6,
        b"[" * 10**6 + b"]" * 10**6,
        b'{"sha256":' + b'{"a":' * 10**6 + b"1" + b"}" * (10**6 + 1),
        b'{"sha256": 1}',
        b'{"format":1,"sha256":"x"}',
        b'{"step":' + b"9" * 5000 + b"}",
        b"\xff" * 100,
        b"\0" * 4096,
    ],
    ids=[
        *("empty", "cut", "list", "null", "nested", "nested whole", "nested objects"),
        *("unsealed", "wrong seal", "a number beyond all", "no text", "zeros"),
    ],
)
def test_f09_a_bad_manifest_is_damage_and_never_a_crash(tmp_path: Path, manifest: bytes) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (path / "manifest.json").write_bytes(manifest)
    assert damage(path)
    assert checkpoint.load_newest(tmp_path)[0].step == 1


def test_f09_a_manifest_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    os.truncate(path / "manifest.json", 2**30)  # a hole: no disk is filled
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert damage(path) == [f"manifest.json: larger than {2**24} bytes"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < began + 64 * 1024  # KiB
    assert checkpoint.load_newest(tmp_path)[0].step == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@given(
    body=st.fixed_dictionaries({}, optional={"step": JSON | st.just(1), "files": JSON}),
    files=st.dictionaries(
        st.sampled_from([*FILES, "../x", "/etc/passwd"]) | st.text(max_size=9),
        st.fixed_dictionaries({}, optional={"size": JSON, "sha256": JSON}) | JSON,
        min_size=1,
    )
    | st.none(),
)
def test_f09_whatever_a_sealed_manifest_says_is_damage_and_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, body: dict[str, object], files: object
) -> None:
    folder = tmp_path_factory.getbasetemp() / "sealed"
    path = folder / "step-00000001"
    if not path.exists():
        save(folder, 1)
    manifest = body if files is None else {**body, "step": 1, "files": files}
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True, indent=1).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps({**manifest, "sha256": seal}))
    problems = damage(path)
    nothing_named = manifest.get("step") == 1 and manifest.get("files") in ({}, [], "")
    assert problems or nothing_named


def test_f47_a_link_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 1)
    (tmp_path / "secret").write_bytes(b"s")
    shutil.move(path / "state.json", tmp_path / "state.json")
    (path / "state.json").symlink_to(tmp_path / "state.json")
    assert "state.json" in damage(path)[0]


STRANGE = ["../state.json", "/etc/passwd", "a/b", ".hidden", "..", "", "x" * 101, "a\nb"]


@pytest.mark.parametrize("name", STRANGE)
def test_f47_a_manifest_that_names_anything_else_is_damaged(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"][name] = manifest["files"]["state.json"]
    (path / "manifest.json").write_bytes(manifest_bytes(manifest))
    assert damage(path) == [f"manifest.json: names the file {shown(name)}"]


def test_f47_neither_a_pipe_nor_a_device_is_opened(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for odd in (os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir):
        for name in ("state.json", "manifest.json"):
            whole = (path / name).read_bytes()
            (path / name).unlink()
            odd(path / name)
            assert len(damage(path)) == 1
            assert name in damage(path)[0]
            (path / name).rmdir() if odd is os.mkdir else (path / name).unlink()
            (path / name).write_bytes(whole)
    assert damage(path) == []


def test_f14_a_renamed_directory_is_not_believed(tmp_path: Path) -> None:
    save(tmp_path, 1).rename(tmp_path / "step-00000009")
    with pytest.raises(CheckpointError, match=r"step-00000009 damaged: manifest\.json: is that of"):
        checkpoint.load_newest(tmp_path)


def test_f14_of_directories_renamed_by_hand_only_those_are_believed_that_tell_their_step(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000009")
    shutil.copytree(tmp_path / "step-00000002", tmp_path / "step-000000002")  # two for one step
    (tmp_path / "step-00000003").rename(tmp_path / "step-00000004")
    loaded, notes = checkpoint.load_newest(tmp_path)
    assert loaded.path.name == "step-00000002"
    assert [note.partition(";")[0] for note in notes[:2]] == [
        "checkpoint step-00000009 damaged: manifest.json: is that of step 1",
        "checkpoint step-00000004 damaged: manifest.json: is that of step 3",
    ]


def test_f14_a_number_beyond_all_steps_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / f"step-{10**20}")
    loaded, notes = checkpoint.load_newest(tmp_path)
    assert (loaded.step, notes) == (1, [])


def test_f14_two_that_were_swapped_are_both_ignored(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-00000002").rename(tmp_path / "aside")
    (tmp_path / "step-00000003").rename(tmp_path / "step-00000002")
    (tmp_path / "aside").rename(tmp_path / "step-00000003")
    loaded, notes = checkpoint.load_newest(tmp_path)
    assert loaded.step == 1
    assert len(notes) == 2


@pytest.mark.parametrize("action", ["eio", "estale"])
def test_f16_a_read_that_fails_three_times_is_tried_once_more(
    tmp_path: Path, ask_for: AskFor, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    save(tmp_path, 1)
    save(tmp_path, 2)
    for first in range(1, 10):  # in every file, and in either of its two readings
        waited.clear()
        ask_for(f"load:{first}-{first + 2}:{action}")
        assert checkpoint.load_newest(tmp_path)[0].step == 2
        assert waited == ([0.1, 1.0, 5.0] if first <= 8 else [])


@pytest.mark.parametrize(("first", "file"), [(1, "manifest"), (2, "model"), (5, "")])
def test_f16_a_read_that_fails_for_good_leaves_the_next_older_one(
    tmp_path: Path, ask_for: AskFor, monkeypatch: pytest.MonkeyPatch, first: int, file: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    save(tmp_path, 1)
    save(tmp_path, 2)
    ask_for(f"load:{first}-{first + 3}:eio")
    loaded, (note,) = checkpoint.load_newest(tmp_path)
    assert loaded.step == 1
    assert f"step-00000002 damaged: {file}" in note
    assert note.endswith("input/output error; using step-00000001")
    assert checkpoint.load_newest(tmp_path)[0].step == 2  # and nothing was deleted


def test_f10_where_every_one_is_damaged_each_reason_is_given(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="step-00000002 damaged: .*step-00000001 damaged: "):
        checkpoint.load_newest(tmp_path)
    with pytest.raises(CheckpointError, match="none was saved"):
        checkpoint.load_newest(tmp_path / "nothing")


def test_f11_one_asked_for_by_name_has_no_stand_in(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load_step(tmp_path, "step-00000002")
    with pytest.raises(CheckpointError, match="there are: step-00000002, step-00000001"):
        checkpoint.load_step(tmp_path, "step-00000003")


def test_f12_a_newer_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(commit, "FORMAT", 3)
        save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="has format 3, this version reads 2"):
        checkpoint.load_newest(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells")
def test_loading_takes_memory_for_what_is_used_alone(tmp_path: Path) -> None:
    large = {"model": {"a": torch.ones(64, 2**18)}}  # 64 MiB
    write_checkpoint(Disk(), tmp_path, 1, large, {})
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

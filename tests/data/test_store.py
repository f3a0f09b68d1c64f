"""A store is whole or it is not opened, and `verify` finds the place of every damage."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lengthen.data import store as store_module
from lengthen.data import store_manifest
from lengthen.data import store_writer as write_module
from lengthen.data.prepare import prepare
from lengthen.data.store import Store, extra_files, verify
from lengthen.data.store_manifest import CONTENT, PARTS, content_id
from lengthen.data.tokenizer_files import parse_tokenizer
from lengthen.util import manifest
from lengthen.util.errors import DataError
from tests.data.files import write

TEXT = "one line\nand another\n" * 20
FILES = ["train.bin", "valid.bin", "tokenizer.json"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    source = write(folder / "a.txt", TEXT)
    prepare([source], folder / "store", tokenizer="bytes", valid=0.2, quiet=True)
    return folder / "store"


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "store"))


def manifest_of(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return manifest


def test_an_open_store_gives_tokens_vocabulary_separator_and_tokenizer(store: Path) -> None:
    opened = Store.open(store)
    text = opened.tokenizer().decode(opened.train.tolist() + opened.valid.tolist())
    assert text == TEXT
    assert (opened.vocabulary, opened.separator) == (257, 256)
    assert opened.train[-1] == opened.valid[-1] == 256
    assert opened.train.dtype == np.dtype("<u2")


def test_each_part_is_one_row_of_tokens_that_divides_into_sequences(store: Path) -> None:
    opened = Store.open(store)
    for tokens in (opened.train, opened.valid):
        row = np.asarray(tokens)
        assert row.shape == (len(tokens),)
        assert (tokens[2:9] == row[2:9]).all()
    count = len(opened.train)
    assert opened.sequences(count - 1) == 1
    assert opened.sequences(count) == 0  # the last token has no target
    assert opened.sequences(10) == (count - 1) // 10


def test_tokens_cannot_be_written_to(store: Path) -> None:
    train = Store.open(store).train
    for tokens in (np.asarray(train), train[1:9]):
        with pytest.raises(ValueError, match="read-only"):
            tokens[0] = 1


def test_a_store_is_read_where_it_was_opened_wherever_its_process_goes(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.parent)
    opened = Store.open(store.name)
    monkeypatch.chdir("/")
    assert opened.train[:4].tolist() == Store.open(store).train[:4].tolist()
    assert opened.tokenizer().get_vocab_size()
    opened.check_files()


def test_a_store_may_have_no_validation_part(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", TEXT)
    prepare([source], tmp_path / "out", tokenizer="bytes", valid=0, quiet=True)
    opened = Store.open(tmp_path / "out")
    assert len(opened.valid) == 0
    assert opened.valid.tolist() == []
    assert verify(tmp_path / "out") == []


def test_files_hold_nothing_but_little_endian_tokens(store: Path) -> None:
    data = (store / "train.bin").read_bytes()
    assert data[:6] == b"o\0n\0e\0"
    assert len(data) == 2 * manifest_of(store)["train"][0]["tokens"]


@pytest.mark.parametrize(("vocabulary", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_the_smaller_type_that_holds_every_id_is_used(vocabulary: int, dtype: str) -> None:
    assert write_module.dtype_for(vocabulary) == dtype


def test_the_id_is_that_of_the_content_and_says_nothing_of_its_making(store: Path) -> None:
    manifest = manifest_of(store)
    assert manifest["id"] == content_id(manifest)
    assert content_id({**manifest, "made": {}}) == manifest["id"]
    assert content_id({**manifest, "vocabulary": 300}) != manifest["id"]


def test_a_whole_store_verifies(store: Path) -> None:
    assert verify(store) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_changed_bit_is_found_and_the_file_is_named(store: Path, name: str, place: float) -> None:
    data = bytearray((store / name).read_bytes())
    data[round(place * (len(data) - 1))] ^= 4
    (store / name).write_bytes(data)
    assert verify(store) == [f"{name} sha256 differs in bytes 0 to {len(data) - 1}"]


def test_f39_damage_is_located_to_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = 2**16  # larger than the tokenizer's file, which has one hash
    for module in (store_module, store_manifest):
        monkeypatch.setattr(module, "CHUNK", chunk)
    monkeypatch.setattr(manifest, "BLOCK", chunk // 4)
    monkeypatch.setattr(write_module, "CHUNK", chunk)
    source = write(tmp_path / "a.txt", "0123456789" * 7000)
    prepare([source], tmp_path / "out", tokenizer="bytes", valid=0, quiet=True)
    assert verify(tmp_path / "out") == []
    data = bytearray((tmp_path / "out/train.bin").read_bytes())
    for place in (chunk, 2 * chunk - 1, len(data) - 1):
        data[place] ^= 1
    (tmp_path / "out/train.bin").write_bytes(data)
    assert verify(tmp_path / "out") == [
        "train.bin sha256 differs in bytes 65536 to 131071",
        "train.bin sha256 differs in bytes 131072 to 140001",
    ]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_tokens_of_another_tool_are_named_as_no_store(tmp_path: Path) -> None:
    for name in ("val.bin", "train.bin", "meta.pkl"):
        (tmp_path / name).write_bytes(bytes(64))
    for place in (tmp_path, tmp_path / "train.bin"):
        with pytest.raises(
            DataError, match=r"no token store is there, train.bin lacks a manifest;"
        ):
            Store.open(place)


def test_where_no_store_is_the_way_to_one_is_named(store: Path) -> None:
    (store / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"lacks a manifest; `lengthen prepare` makes one"):
        Store.open(store)
    for part in store.glob("*.bin"):
        part.unlink()
    with pytest.raises(DataError, match=r"no token store is there; `lengthen prepare` makes one"):
        Store.open(store)
    assert len(verify(store)) == 1


@pytest.mark.parametrize("name", FILES)
def test_f08_a_missing_file_is_named(store: Path, name: str) -> None:
    (store / name).unlink()
    with pytest.raises(DataError, match=f"{name} no such file"):
        Store.open(store)
    assert len(verify(store)) == 1


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", [link, fifo, folder])
def test_f47_what_is_no_regular_file_is_not_opened(
    store: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(store / name)
    with pytest.raises(DataError, match=name):
        Store.open(store)
    assert len(verify(store)) == 1
    assert name in verify(store)[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, lengthen])
def test_f39_a_file_of_another_size_is_refused(
    store: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(store / name)
    with pytest.raises(DataError, match=rf"{name} has \d+ bytes, should have \d+"):
        Store.open(store)
    assert len(verify(store)) == 1


BAD_MANIFESTS = {
    "empty": b"",
    "no JSON": b"hello",
    "no object": b"[]",
    "nested": b"[" * 10**6,
    "NUL bytes": b"\0" * 1000,
    "no UTF-8": b'{"id": "\xff"}',
    "over 32 MiB": b" " * (32 * 2**20 + 1),
}


@pytest.mark.parametrize("data", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_f09_a_manifest_that_is_none_is_one_line(store: Path, data: bytes) -> None:
    (store / "manifest.json").write_bytes(data)
    with pytest.raises(DataError) as caught:
        Store.open(store)
    assert "\n" not in str(caught.value)
    assert "manifest.json" in str(caught.value)
    assert verify(store) == [str(caught.value)]


CHANGES: dict[str, dict[str, object]] = {
    "id": {"id": "0" * 32},
    "vocabulary": {"vocabulary": 300},
    "vocabulary as text": {"vocabulary": "257"},
    "separator": {"separator": 257},
    "unknown name": {"path": "/etc/passwd"},
    "dtype": {"dtype": "float64"},
    "negative": {"separator": -1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_f09_an_altered_manifest_is_refused(store: Path, change: dict[str, object]) -> None:
    (store / "manifest.json").write_text(json.dumps({**manifest_of(store), **change}))
    with pytest.raises(DataError, match=r"manifest\.json: cannot be used"):
        Store.open(store)


def test_a_manifest_from_before_the_counts_of_losses_is_read(store: Path) -> None:
    manifest = manifest_of(store)
    for name in ("held_out", "repeated", "leaked", "compared", "lost", "unknown", "spelled"):
        del manifest["made"][name]
    (store / "manifest.json").write_text(json.dumps(manifest))
    assert Store.open(store).manifest.made.lost == 0
    assert verify(store) == []


def test_a_store_of_format_1_is_read_and_its_runs_still_know_it(store: Path) -> None:
    new = manifest_of(store)
    parts = {part: {k: v for k, v in new[part][0].items() if k in CONTENT} for part in PARTS}
    old = {**new, **parts, "format": 1}
    hashed = {name: old[name] for name in old if name not in ("id", "made")}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest()[:32] == new["id"]
    tokens = Store.open(store).train.tolist()
    (store / "manifest.json").write_text(json.dumps(old, indent=1))
    assert (Store.open(store).id, Store.open(store).train.tolist()) == (new["id"], tokens)
    assert verify(store) == []


@pytest.mark.parametrize("file", ["../a", "a/../../b", "a/b/c", ".hidden", "", "a\n", "/a\0"])
def test_a_shard_lies_in_its_folder_or_at_an_absolute_path(store: Path, file: str) -> None:
    manifest = manifest_of(store)
    manifest["train"][0]["file"] = file
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"train\.0\.file"):
        Store.open(store)


def test_f12_a_newer_format_is_named_with_ours(store: Path) -> None:
    (store / "manifest.json").write_text(json.dumps({**manifest_of(store), "format": 3}))
    with pytest.raises(DataError, match="format: .* 2, the newest format that this version reads"):
        Store.open(store)


def test_f08_a_stranger_in_the_folder_does_no_harm_and_is_named(store: Path) -> None:
    (store / "notes.md").write_text("mine")
    assert verify(store) == []
    assert extra_files(store) == ["notes.md"]


def test_f45_another_tokenizer_of_equal_size_is_refused_with_both_hashes(store: Path) -> None:
    path = store / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"endoftext", b"endoftexT"))
    with pytest.raises(DataError, match=r"sha256 .{16}, the manifest says .{16}"):
        Store.open(store).tokenizer()


def test_a_tokenizer_is_loaded_for_text_as_it_is(store: Path) -> None:
    path = store / "tokenizer.json"
    tokenizer = parse_tokenizer(path.read_bytes(), path)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    path.write_text(tokenizer.to_str())
    assert parse_tokenizer(path.read_bytes(), path).encode("abc<|endoftext|>").ids == list(
        b"abc<|endoftext|>"
    )

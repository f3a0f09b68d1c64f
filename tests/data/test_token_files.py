"""Token files of other tools become a store with the same tokens, copied or used in place."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthen.data.prepare import prepare
from lengthen.data.store import Store, verify
from lengthen.data.token_files import CODES
from lengthen.util.errors import DataError, SettingError
from tests.data.files import write

END = 256  # the separator of the tokenizer "bytes"
IDS = np.random.default_rng(0).integers(250, size=3000)
IDS[[7, 1200, -1]] = END


def ready(sources: object, out: Path, **options: Any) -> Store:
    assert isinstance(sources, list)
    prepare(sources, out, **{"tokenizer": "bytes", "quiet": True, **options})
    assert verify(out) == []
    return Store.open(out)


def nanogpt(path: Path, ids: NDArray[np.int64] = IDS) -> Path:
    ids.astype(np.uint16).tofile(path)
    return path


def llm_c(
    path: Path, ids: NDArray[np.int64] = IDS, magic: int = 20240520, version: int = 1, more: int = 0
) -> Path:
    """As write_datafile of llm.c's dev/data/data_common.py has it, and modded-nanogpt."""
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(ids) + more
    kind = np.uint16 if magic == 20240520 else np.uint32
    path.write_bytes(header.tobytes() + ids.astype(kind).tobytes())
    return path


def megatron(path: Path, documents: Sequence[Sequence[Sequence[int]]], dtype: str = "<u2") -> Path:
    """As _IndexWriter of megatron/core/datasets/indexed_dataset.py has it."""
    sequences = [one for document in documents for one in document]
    lengths = np.array([len(one) for one in sequences], "<i4")
    flat = np.array([number for one in sequences for number in one], dtype)
    path.write_bytes(flat.tobytes())
    firsts = np.cumsum([0, *map(len, documents)])
    code = next(code for code, kind in CODES.items() if kind == dtype)
    starts = np.cumsum(np.append(0, lengths[:-1])) if len(lengths) else np.empty(0)
    path.with_suffix(".idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, code, len(lengths), len(firsts))
        + lengths.tobytes()
        + (starts * flat.itemsize).astype("<i8").tobytes()
        + firsts.astype("<i8").tobytes()
    )
    return path


def datatrove(path: Path, documents: Sequence[Sequence[int]], dtype: str = "<u2") -> Path:
    np.array([number for one in documents for number in one], dtype).tofile(path)
    np.cumsum([len(one) for one in documents]).astype("<u8").tofile(f"{path}.index")
    return path


def test_a_folder_of_nanogpt_has_its_own_validation_part(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    nanogpt(tmp_path / "data/train.bin")
    nanogpt(tmp_path / "data/val.bin", IDS[:50])
    (tmp_path / "data/meta.pkl").write_bytes(b"stoi")
    store = ready([tmp_path / "data"], tmp_path / "out")
    assert store.train.tolist() == IDS.tolist()
    assert store.valid.tolist() == IDS[:50].tolist()
    assert store.manifest.train.documents == 3
    assert store.manifest.valid.documents == 2  # the end of the second was cut off
    assert store.manifest.train.text_bytes is None


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("magic", "version"), [(20240520, 1), (20240801, 7)])
def test_a_header_says_how_wide_ids_are(
    tmp_path: Path, magic: int, version: int, in_place: bool
) -> None:
    train = llm_c(tmp_path / "fineweb_000001.bin", magic=magic, version=version)
    more = llm_c(tmp_path / "fineweb_000002.bin", IDS[:90], magic, version)
    valid = llm_c(tmp_path / "other.bin", IDS[:9], magic, version)
    store = ready([train, more], tmp_path / "out", valid_files=valid, in_place=in_place)
    assert store.train.tolist() == [*IDS.tolist(), *IDS[:90].tolist()]
    assert store.valid.tolist() == IDS[:9].tolist()
    assert (tmp_path / "out/train.bin").exists() is not in_place
    wide = in_place and magic == 20240801
    assert store.manifest.dtype == ("uint32" if wide else "uint16")


sequences = st.lists(st.integers(0, END), max_size=5)


@given(
    documents=st.lists(st.lists(sequences, min_size=1, max_size=3), min_size=1, max_size=5),
    dtype=st.sampled_from([kind for kind in CODES.values() if kind not in ("<u1", "<i1")]),
)
def test_documents_of_megatron_end_in_one_separator(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[list[int]]], dtype: str
) -> None:
    folder = tmp_path_factory.mktemp("megatron")
    flat = [[number for one in document for number in one] for document in documents]
    wanted = [one if one[-1] == END else [*one, END] for one in flat if one]
    tokens = [number for one in wanted for number in one]
    source = megatron(folder / "a_text_document.bin", documents, dtype)
    if len(tokens) < 2:
        with pytest.raises(DataError, match="corpus: has"):
            ready([source], folder / "out")
        return
    store = ready([source], folder / "out")
    assert store.train.tolist() == tokens
    assert store.manifest.train.documents == len(wanted)
    if dtype in ("<u2", "<i2", "<i4"):
        if wanted == [one for one in flat if one]:
            in_place = ready([source], folder / "in place", in_place=True)
            assert in_place.train.tolist() == tokens
            assert in_place.manifest.train.documents == len(wanted)
        else:
            with pytest.raises(DataError, match="lacks the separator; leave out --in-place"):
                ready([source], folder / "in place", in_place=True)


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_files_of_datatrove_are_shards_as_they_are(tmp_path: Path, dtype: str) -> None:
    documents = [[[*range(number), END] for number in range(some, some + 9)] for some in range(5)]
    sources = [
        datatrove(tmp_path / f"{number}_unshuffled.ds", some, dtype)
        for number, some in enumerate(documents)
    ]
    store = ready([tmp_path / "*.ds"], tmp_path / "out", in_place=True)
    assert store.train.tolist() == [n for some in documents for one in some for n in one]
    assert [shard.file for shard in store.manifest.train.root] == list(map(str, sources))
    assert store.manifest.train.documents == 45
    assert set(os.listdir(tmp_path / "out")) == {"manifest.json", "tokenizer.json"}


@pytest.mark.parametrize("form", ["saved", "parquet", "fixed"])
def test_a_column_of_ids_is_read_row_after_row(tmp_path: Path, form: str) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [IDS[at : at + 30].tolist() for at in range(0, 3000, 30)]
    features = None
    if form == "fixed":
        of = datasets.Sequence(datasets.Value("int32"), length=30)
        features = datasets.Features({"input_ids": of})
    data = datasets.Dataset.from_dict({"input_ids": rows}, features=features)
    source = tmp_path / ("data.parquet" if form == "parquet" else "data")
    data.to_parquet(source) if form == "parquet" else data.save_to_disk(source)
    store = ready([source], tmp_path / "out", field="input_ids")
    assert store.train.tolist() == IDS.tolist()
    assert store.manifest.train.documents == 3
    with pytest.raises(DataError, match="is a table, which no store maps; leave out --in-place"):
        ready([source], tmp_path / "in place", field="input_ids", in_place=True)


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_table_without_rows_before_those_with_ids_hides_nothing(
    tmp_path: Path, form: str
) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3, END]]})
    for name, rows in {"a": [], "b": [0, 1]}.items():
        part, path = data.select(rows), tmp_path / "in" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        part.to_parquet(path) if form == "parquet" else part.save_to_disk(path.with_suffix(""))
    store = ready([tmp_path / "in"], tmp_path / "out", field="input_ids")
    assert store.train.tolist() == [1, 2, 3, END]


def with_index(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = megatron(folder / "a.bin", [[[1, 2, END]], [[3, 4], [5, END]]])
        index = path.with_suffix(".idx")
        index.write_bytes(change(index.read_bytes()))
        return path

    return make


def at(place: int, kind: str, value: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        new = struct.pack(kind, value)
        return data[:place] + new + data[place + len(new) :]

    return change


def cut(path: Path, by: int = 2) -> Path:
    os.truncate(path, path.stat().st_size - by)
    return path


def wide(path: Path, dtype: str) -> Path:
    IDS.astype(dtype).tofile(path)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another vocabulary": (
        lambda f: nanogpt(f / "a.bin", np.array([1, 2, 257])),
        r"a\.bin: token 2 is 257, the vocabulary has 257; give --tokenizer the one that made them",
    ),
    "32 bits for a small vocabulary": (
        lambda f: wide(f / "a.bin", "<i4"),
        "has 0 as every second uint16, so its ids are wider; write it as uint16",
    ),
    "64 bits": (lambda f: wide(f / "a.ds", "<i8"), "has 0 as every second uint16"),
    "half an id": (lambda f: cut(nanogpt(f / "a.bin"), 1), "5999 bytes, which are no whole ids"),
    "a header of another version": (
        lambda f: llm_c(f / "a.bin", version=2),
        "a header of version 2, only 1 is known",
    ),
    "a header of more ids": (
        lambda f: llm_c(f / "a.bin", more=1),
        "has 7024 bytes, its header says 7026",
    ),
    "a cut file with a header": (lambda f: cut(llm_c(f / "a.bin")), "bytes, its header says 7024"),
    "a pointer of Git LFS": (
        lambda f: write(f / "a.bin", "version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer",
    ),
    "no index of Megatron's": (with_index(lambda data: b"x" + data[1:]), "is no index"),
    "an index of another version": (with_index(at(9, "<Q", 2)), r"is no index of Megatron's"),
    "an unknown type": (with_index(at(17, "<B", 9)), r"is no index of Megatron's, version 1"),
    "a cut index": (with_index(lambda data: data[:-1]), r"a\.idx has 93 bytes, should have 94"),
    "an index that points beyond its file": (
        with_index(at(34 + 8, "<i", 3)),
        r"a\.bin: has 14 bytes, a\.idx points to 16",
    ),
    "sequences that overlap": (with_index(at(34 + 12 + 8, "<q", 4)), "end to end"),
    "documents in no order": (with_index(at(94 - 16, "<q", 9)), "do not follow each other"),
    "a cut file of Megatron's": (
        lambda f: cut(with_index(lambda data: data)(f)),
        r"has 12 bytes, a\.idx points to 14",
    ),
    "a cut file of datatrove's": (
        lambda f: cut(datatrove(f / "a.ds", [[1, END]])),
        r"a\.ds: has 2 bytes, a\.ds\.index points to token 2",
    ),
    "an emptied file of datatrove's": (
        lambda f: cut(datatrove(f / "a.ds", [[1, END]]), 4),
        r"a\.ds: has 0 bytes, a\.ds\.index points to token 2",
    ),
    "a cut index of datatrove's": (
        lambda f: cut(datatrove(f / "a.ds", [[1, END]]).with_suffix(".ds.index")).with_suffix(""),
        r"a\.ds\.index has 6 bytes, which are no whole ends",
    ),
    "negative ids": (
        lambda f: megatron(f / "a.bin", [[[1, -1]]], "<i4"),
        "token 1 is -1, the vocabulary has 257",
    ),
    "halves of ids": (
        lambda f: megatron(f / "a.bin", [[[1]], [[0.5]]], "<f4"),  # type: ignore[list-item]
        "token 1 is 0.5",
    ),
}


@pytest.mark.parametrize(("make", "said"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_wrong_with_a_token_file_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], said: str, in_place: bool
) -> None:
    source = make(tmp_path)
    expected = "which no store maps" if in_place and "0.5" in said else said
    with pytest.raises(DataError, match=expected) as caught:
        ready([source], tmp_path / "out", in_place=in_place)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


MISTAKES: dict[str, tuple[Callable[[Path], list[Path]], dict[str, object], str]] = {
    "no tokenizer": (lambda f: [nanogpt(f / "a.bin")], {"tokenizer": "train:512"}, "tokenizer"),
    "text beside ids": (
        lambda f: [nanogpt(f / "a.bin"), write(f / "a.txt", "a")],
        {},
        r"a\.bin'.*|is of token ids, and",
    ),
    "text in place": (lambda f: [write(f / "a.txt", "a")], {"in_place": True}, "in_place: needs"),
}


@pytest.mark.parametrize(("make", "options", "said"), MISTAKES.values(), ids=MISTAKES)
def test_what_was_asked_wrongly_is_one_line(
    tmp_path: Path,
    make: Callable[[Path], list[Path]],
    options: dict[str, object],
    said: str,
) -> None:
    with pytest.raises(SettingError, match=said):
        ready(make(tmp_path), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_path_that_no_manifest_can_name_is_copied_and_not_used_in_place(tmp_path: Path) -> None:
    source = nanogpt(tmp_path / os.fsdecode(b"\xff.bin"))
    with pytest.raises(DataError, match="has a path that is no UTF-8, .*; leave out --in-place"):
        ready([source], tmp_path / "out", in_place=True)
    assert ready([source], tmp_path / "out").train.tolist() == IDS.tolist()


def test_files_of_two_widths_are_copied_and_not_used_in_place(tmp_path: Path) -> None:
    sources = [llm_c(tmp_path / "a.bin"), llm_c(tmp_path / "b.bin", IDS[:9], 20240801, 7)]
    with pytest.raises(DataError, match="two widths in bytes, .*a.bin 2 and .*b.bin 4; leave out"):
        ready(sources, tmp_path / "out", in_place=True)
    assert ready(sources, tmp_path / "out").train.tolist() == [*IDS.tolist(), *IDS[:9].tolist()]


def test_a_store_is_not_replaced_by_one_that_uses_its_files_in_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ready([nanogpt(tmp_path / "a.bin")], out)
    (tmp_path / "link.bin").symlink_to(out / "train.bin")
    for source in (out / "train.bin", tmp_path / "link.bin"):
        with pytest.raises(SettingError, match="out: holds the source .*train.bin'.*leave out"):
            ready([source], out, in_place=True, overwrite=True)
    assert Store.open(out).train.tolist() == IDS.tolist()
    assert len(ready([out / "train.bin"], out, overwrite=True).train) == len(IDS)


def test_a_file_in_place_that_changed_since_is_named(tmp_path: Path) -> None:
    path = llm_c(tmp_path / "a.bin", np.resize(IDS, 9000))
    ready([path], tmp_path / "out", in_place=True)
    good = path.read_bytes()
    changes = {
        "begins otherwise": good[:1026] + b"\1" + good[1027:],
        "has 19022 bytes, should have 19024": good[:-2],
    }
    for said, data in changes.items():
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"{path}.? {said}"):
            Store.open(tmp_path / "out")
    path.write_bytes(good[:-2] + b"\1\0")
    assert Store.open(tmp_path / "out").train[-1] == 1  # which only every byte shows
    assert verify(tmp_path / "out") == [f"{path} sha256 differs in bytes 0 to 19023"]
    path.rename(tmp_path / "b.bin")
    with pytest.raises(DataError, match="a.bin no such file"):
        Store.open(tmp_path / "out")


ONE_OF_EACH: dict[str, Callable[[Path], Path]] = {
    "nanoGPT": lambda f: nanogpt(f / "a.bin"),
    "llm.c": lambda f: llm_c(f / "a.bin"),
    "modded-nanogpt, 32 bits": lambda f: llm_c(f / "a.bin", IDS, 20240801, 7),
    "Megatron": lambda f: megatron(f / "a.bin", [[IDS.tolist()]]),
    "datatrove": lambda f: datatrove(f / "a.ds", [IDS.tolist()]),
}


@pytest.mark.parametrize("make", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_in_every_format_a_file_in_place_that_was_cut_or_altered_since_is_refused(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path, out = make(tmp_path), tmp_path / "out"
    assert ready([path], out, in_place=True).train.tolist() == IDS.tolist()
    good = path.read_bytes()

    def altered(place: int) -> bytes:
        return good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]

    path.write_bytes(altered(2))
    with pytest.raises(DataError, match=f"{path} begins otherwise"):
        Store.open(out)
    path.write_bytes(altered(len(good) - 2))
    assert verify(out) == [f"{path} sha256 differs in bytes 0 to {len(good) - 1}"]
    path.write_bytes(good[:-2])
    with pytest.raises(DataError, match=f"has {len(good) - 2} bytes, should have {len(good)}"):
        Store.open(out)


@pytest.mark.parametrize("form", ["saved", "parquet"])
@pytest.mark.parametrize("change", ["cut", "altered"])
def test_a_table_that_was_cut_or_altered_is_one_line(
    tmp_path: Path, form: str, change: str
) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"input_ids": [IDS.tolist()]})
    source = file = tmp_path / "data.parquet"
    if form == "saved":
        source = tmp_path / "saved"
        data.save_to_disk(source)
        (file,) = source.glob("*.arrow")
    else:
        data.to_parquet(source)
    good = file.read_bytes()
    file.write_bytes(good[:-999] if change == "cut" else bytes(99) + good[99:])
    with pytest.raises(DataError) as error:
        ready([source], tmp_path / "out", field="input_ids")
    assert str(source) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


COST = r"""
import os, re, sys, time
from pathlib import Path
import lengthen
source, out, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def peak():
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
if sys.argv[4] == "prepare":
    source.write_bytes(b"")
    os.truncate(source, 2 * count)  # with holes: it takes no disk
    lengthen.prepare(source, out, tokenizer="bytes", in_place=True, quiet=True)
    print(peak(), 0)
else:
    import lengthen.data.store
    began = time.process_time()
    store = lengthen.Store.open(out)
    assert len(store.train) == count and not any(store.train[i] for i in (0, count // 2, -1))
    print(peak(), time.process_time() - began)
"""


@pytest.mark.slow
def test_a_billion_tokens_are_read_in_bounded_memory_and_opened_at_once(tmp_path: Path) -> None:
    def cost(count: int, work: str) -> list[float]:
        places = [tmp_path / f"{count}.bin", tmp_path / f"{count}"]
        words = [sys.executable, "-c", COST, *map(str, places), str(count), work]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return [float(word) for word in done.stdout.split()]

    costs = {of: cost(*of) for of in product((10**6, 10**9), ("prepare", "open"))}
    assert costs[10**9, "open"][1] < 1  # seconds of processor time
    for work, more in (("prepare", 64), ("open", 8)):  # megabytes
        assert costs[10**9, work][0] - costs[10**6, work][0] < more, costs


@pytest.mark.parametrize("name", ["a.bin", "a.ds"])
def test_an_index_is_found_where_a_link_to_its_ids_leads(tmp_path: Path, name: str) -> None:
    if name == "a.bin":
        path = megatron(tmp_path / name, [[[1, 2]], [[3]]])
    else:
        path = datatrove(tmp_path / name, [[1, 2], [3]])
    link = tmp_path / f"link{path.suffix}"
    link.symlink_to(path)
    assert ready([link], tmp_path / "out").train.tolist() == [1, 2, END, 3, END]


def test_a_link_is_followed_once_so_that_the_store_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to(nanogpt(tmp_path / "a.bin"))
    store = ready([tmp_path / "link.bin"], tmp_path / "out", in_place=True)
    assert store.manifest.train.root[0].file == str(tmp_path / "a.bin")

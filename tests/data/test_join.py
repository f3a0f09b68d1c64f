"""Parts that are prepared by themselves and joined are the store of one `prepare`."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthen.cli.main import main
from lengthen.data.join import join
from lengthen.data.prepare import Summary, prepare
from lengthen.data.store import Store, extra_files, verify
from lengthen.util.errors import DataError, SettingError
from tests.data.files import as_lines, write


def in_parts(sources: list[Path], out: Path, count: int, **options: Any) -> Summary:
    known: dict[str, Any] = {"tokenizer": "bytes", "quiet": True, "workers": 1, **options}
    for number in range(1, count + 1):
        prepare(sources, out, part=f"{number}/{count}", **known)
    return join(out)


texts = st.text("ab \n", max_size=40)
files = st.lists(
    st.tuples(st.sampled_from(["txt", "jsonl", "jsonl.gz"]), st.lists(texts, max_size=12)),
    min_size=1,
    max_size=6,
)
COUNTS = ("empty", "skipped", "repeated", "leaked", "files", "ignored", "held_out")


@settings(max_examples=8)
@given(
    files=files,
    count=st.sampled_from([2, 3, 8]),
    valid=st.sampled_from([0.0, 0.1, 0.4]),
    own_valid=st.booleans(),
)
def test_parts_have_the_tokens_documents_and_split_of_one_store(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[str, list[str]]],
    count: int,
    valid: float,
    own_valid: bool,
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    sources = []
    for number, (kind, documents) in enumerate(files):
        text = documents[0] if documents else ""
        lines = as_lines([*documents, f"{number} more", number])  # and what is no text
        data = f"{number}{text}".encode() if kind == "txt" else lines
        sources.append(write(folder / f"{number}.{kind}", data))
    options: dict[str, Any] = {"valid": valid, "on_bad": "skip"}
    if own_valid:
        options["valid_files"] = write(folder / "own.jsonl", as_lines(["valid one", "", "two"]))
    try:
        one = prepare(sources, folder / "one", tokenizer="bytes", quiet=True, **options)
    except DataError as error:  # too little, or too much of it twice: so for the parts
        with pytest.raises(DataError, match=str(error).split(":")[0]):
            in_parts(sources, folder / "parts", count, **options)
        return
    joined = in_parts(sources, folder / "parts", count, **options)
    stores = Store.open(folder / "one"), Store.open(folder / "parts")
    for part in ("train", "valid"):
        first, second = (getattr(store, part).tolist() for store in stores)
        assert first == second
        entries = [getattr(store.manifest, part) for store in stores]
        assert len({(entry.documents, entry.text_bytes) for entry in entries}) == 1
    for name in COUNTS:
        assert getattr(one.manifest.made, name) == getattr(joined.manifest.made, name), name
    assert verify(folder / "parts") == extra_files(folder / "parts") == []


def test_a_part_reads_its_share_of_one_long_file(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", as_lines([f"{n} {'x' * 400}" for n in range(9000)]))
    in_parts([source], tmp_path / "parts", 3)
    prepare([source], tmp_path / "one", tokenizer="bytes", quiet=True)
    store = Store.open(tmp_path / "parts")
    assert store.train.tolist() == Store.open(tmp_path / "one").train.tolist()
    sizes = [shard.documents for shard in store.manifest.train.root]
    assert len(sizes) == 3
    assert min(sizes) > 1000


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for number in range(4):
        write(folder / f"{number}.jsonl", as_lines([f"{number} {n}" for n in range(30)]))
    in_parts([folder / "*.jsonl"], folder / "parts", 4)
    (folder / "parts/manifest.json").unlink()
    return folder


@pytest.fixture
def parts(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "all")) / "parts"


def again(number: int, parts: Path, **options: Any) -> None:
    known: dict[str, Any] = {
        "tokenizer": "bytes",
        "quiet": True,
        "part": f"{number}/4",
        "overwrite": True,
    }
    prepare([parts.parent / "*.jsonl"], parts, **{**known, **options})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


THIRD = "part-00003-of-00004"
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda parts: shutil.rmtree(parts / THIRD),
        "part 3 of 4 is missing; prepare it with --part 3/4",
    ),
    "cut": (
        lambda parts: os.truncate(parts / THIRD / "train.bin", 6),
        rf"{THIRD} damaged: train.bin has 6 bytes, .*; prepare it again with --part 3/4 --",
    ),
    "altered": (
        lambda parts: flip(parts / THIRD / "train.bin"),
        rf"{THIRD} damaged: train.bin sha256 differs",
    ),
    "without its manifest": (
        lambda parts: (parts / THIRD / "manifest.json").unlink(),
        rf"{THIRD} damaged: .*no token store is there",
    ),
    "without its hashes of documents": (
        lambda parts: (parts / THIRD / "documents.bin").unlink(),
        r"documents.bin: damaged or missing",
    ),
    "with altered hashes of documents": (
        lambda parts: flip(parts / THIRD / "documents.bin"),
        "documents.bin: damaged or missing; prepare its part again",
    ),
    "of another seed": (
        lambda parts: again(3, parts, seed=5),
        f"{THIRD}: was made with another seed than part-00001-of-00004; prepare all parts with",
    ),
    "of another separator": (
        lambda parts: again(3, parts, tokenizer=other_tokenizer(parts)),
        f"{THIRD}: was made with another tokenizer than part-00001-of-00004",
    ),
}


def other_tokenizer(parts: Path) -> Path:
    text = write(parts.parent / "text/a.txt", "some words\n" * 99)
    prepare(text, parts.parent / "other", tokenizer="train:300", quiet=True)
    return parts.parent / "other"


@pytest.mark.parametrize(("spoil", "said"), WRONG.values(), ids=WRONG)
def test_a_part_that_does_not_fit_is_named(
    parts: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(parts)
    with pytest.raises(DataError, match=said):
        join(parts)
    assert not (parts / "manifest.json").exists()


def test_a_part_can_be_prepared_again_and_a_joined_store_joined_again(parts: Path) -> None:
    first = join(parts).manifest.id
    with pytest.raises(SettingError, match="must not be joined yet, .* --overwrite joins it again"):
        join(parts)
    again(3, parts)
    assert join(parts, overwrite=True).manifest.id == first


def test_documents_that_stand_in_two_parts_are_found(tmp_path: Path) -> None:
    sources = [
        write(
            tmp_path / f"{number}.jsonl", as_lines(["twice", *(f"{number} {n}" for n in range(40))])
        )
        for number in range(2)
    ]
    valid = write(tmp_path / "valid.jsonl", as_lines([f"valid {n}" for n in range(20)] + ["0 1"]))
    joined = in_parts(sources, tmp_path / "parts", 3, valid_files=valid)
    assert (joined.manifest.made.repeated, joined.manifest.made.leaked) == (2, 1)
    leaked = write(tmp_path / "leaked.jsonl", as_lines([f"1 {n}" for n in range(40)]))
    with pytest.raises(DataError, match="40 of 40 validation documents also stand in the training"):
        in_parts(sources, tmp_path / "more", 3, valid_files=leaked)


def test_a_part_reads_its_own_files_alone_where_no_share_of_the_text_validates(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.jsonl", b"no JSON")
    for name in ("b.jsonl", "c.jsonl"):
        write(tmp_path / name, as_lines([f"{name} {number}" for number in range(40)]))
    sources, valid = [tmp_path / "?.jsonl"], write(tmp_path / "valid.txt", "validating")
    known: dict[str, Any] = {
        "out": tmp_path / "out",
        "tokenizer": "bytes",
        "quiet": True,
        "part": "3/3",
    }
    prepare(sources, valid=0, **known)
    prepare(sources, valid_files=valid, overwrite=True, **known)
    with pytest.raises(DataError, match=r"a\.jsonl"):  # it numbers the documents before its own
        prepare(sources, valid=0.1, overwrite=True, **known)


MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "none": ({"part": "0/4"}, "part: must be i/n with i from 1 to n, got '0/4'"),
    "beyond": ({"part": "5/4"}, "part: must be i/n"),
    "no numbers": ({"part": "a/b"}, "part: must be i/n"),
    "a tokenizer to learn": ({"part": "1/2", "tokenizer": "train:300"}, "tokenizer: must be that"),
    "standard input": ({"part": "1/2", "sources": ["-"]}, "part: needs sources that every part"),
    "token ids": ({"part": "1/2", "sources": "ids"}, "part: is for text; .* with --in-place"),
}


@pytest.mark.parametrize(("options", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_dividing_is_one_line(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    text = write(tmp_path / "a.txt", "a text\n" * 9)
    if options.get("sources") == "ids":
        (tmp_path / "a.bin").write_bytes(bytes(80))
        options = {**options, "sources": [tmp_path / "a.bin"]}
    known: dict[str, Any] = {
        "sources": [text],
        "out": tmp_path / "out",
        "tokenizer": "bytes",
        "quiet": True,
    }
    with pytest.raises(SettingError, match=said):
        prepare(**{**known, **options})
    assert not (tmp_path / "out").exists()


def test_what_holds_no_parts_cannot_be_joined(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SettingError, match="join: must hold the parts of one division"):
            join(folder)


@pytest.mark.parametrize(
    "more",
    [
        "--tokenizer gpt2",
        "--valid 0.5",
        "--valid-files a b",
        "--part 1/2",
        "--in-place",
        "--seed 1",
    ],
)
def test_a_join_refuses_what_only_a_part_can_be_prepared_with(
    more: str, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--join", str(parts), *more.split()]) == 2
    assert capsys.readouterr().err.startswith(f"lengthen: {more.split()[0]}: must be left out")
    assert main(["prepare", "--join", str(parts)]) == 0


def test_a_store_of_no_parts_is_not_said_to_be_joined(tmp_path: Path) -> None:
    prepare(write(tmp_path / "a.txt", b"text"), tmp_path / "one", tokenizer="bytes", quiet=True)
    with pytest.raises(SettingError, match="must hold the parts of one division"):
        join(tmp_path / "one")

"""`prepare` gives one store for one text, whatever holds it, and otherwise nothing at all."""

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers

from lengthen.data.prepare import Summary, prepare
from lengthen.data.store import Store, verify
from lengthen.data.tokenizer import resolve
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, LengthenError, SettingError, StorageError
from tests.data.files import GPT2, SHARED, as_lines, needs_shared, write

MANY = [f"document {n}\nsays {n * n}\r\nand ends\n" * (1 + n % 3) for n in range(30)]
FEW = MANY[:3]


def stored(sources: Sequence[str | Path], out: Path, **options: Any) -> Summary:
    defaults = {"tokenizer": "bytes", "valid": 0.2, "quiet": True}
    return prepare(sources, out, **{**defaults, **options})


def texts_of(store: Store) -> tuple[list[str], list[str]]:
    """Return the documents of both splits."""
    tokenizer = store.tokenizer()
    end = "<|endoftext|>"
    train, valid = (
        tokenizer.decode(split.tolist(), skip_special_tokens=False).split(end)
        for split in (store.train, store.valid)
    )
    assert train.pop() == valid.pop() == ""
    return train, valid


def as_files(folder: Path, texts: list[str], suffix: str) -> list[Path]:
    return [write(folder / f"{n:03}{suffix}", text) for n, text in enumerate(texts)]


def as_table(path: Path, texts: list[str]) -> list[Path]:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"text": texts}), path)
    return [path]


def as_dataset(path: Path, texts: list[str]) -> list[Path]:
    pytest.importorskip("datasets").Dataset.from_dict({"text": texts}).save_to_disk(str(path))
    return [path]


FORMATS: dict[str, Callable[[Path, list[str]], list[Path]]] = {
    "txt": lambda folder, texts: as_files(folder, texts, ".txt"),
    "txt.gz": lambda folder, texts: as_files(folder, texts, ".txt.gz"),
    "txt.zst": lambda folder, texts: as_files(folder, texts, ".txt.zst"),
    "jsonl": lambda folder, texts: [write(folder / "a.jsonl", as_lines(texts))],
    "jsonl.gz": lambda folder, texts: [write(folder / "a.jsonl.gz", as_lines(texts))],
    "jsonl.zst": lambda folder, texts: [write(folder / "a.jsonl.zst", as_lines(texts))],
    "parquet": lambda folder, texts: as_table(folder / "a.parquet", texts),
    "dataset": lambda folder, texts: as_dataset(folder / "saved", texts),
    "folder": lambda folder, texts: [as_files(folder / "in", texts, ".txt")[0].parent],
    "glob": lambda folder, texts: [as_files(folder, texts, ".txt")[0].with_name("*.txt")],
}


@pytest.mark.parametrize("texts", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("name", FORMATS)
def test_one_text_in_every_format_gives_one_store(
    tmp_path: Path, name: str, texts: list[str]
) -> None:
    plain = [write(tmp_path / "plain.jsonl", as_lines(texts))]
    expected = stored(plain, tmp_path / "expected", tokenizer="train:300")
    (tmp_path / "other").mkdir()
    sources = FORMATS[name](tmp_path / "other", texts)
    summary = stored(sources, tmp_path / "out", tokenizer="train:300")
    assert summary.manifest.id == expected.manifest.id
    for file in ("train.bin", "valid.bin", "tokenizer.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()


@pytest.mark.parametrize(("kind", "data"), [("txt", MANY[4].encode()), ("jsonl", as_lines(MANY))])
def test_standard_input_gives_the_store_of_the_file(
    tmp_path: Path, kind: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = stored([write(tmp_path / f"a.{kind}", data)], tmp_path / "expected")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    summary = stored(["-"], tmp_path / "out", stdin_format=kind)
    assert summary.manifest.id == expected.manifest.id
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tmp_path / "expected"))


def test_the_command_reads_a_pipe(tmp_path: Path) -> None:
    expected = stored([write(tmp_path / "a.jsonl", as_lines(MANY))], tmp_path / "expected")
    options = ["--out", "out", "--tokenizer", "bytes", "--valid", "0.2", "--stdin-format", "jsonl"]
    command = [sys.executable, "-m", "lengthen", "prepare", "-", *options]
    done = subprocess.run(command, cwd=tmp_path, input=as_lines(MANY), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert Store.open(tmp_path / "out").id == expected.manifest.id
    assert expected.manifest.id in done.stdout.decode()


def test_documents_come_in_order_with_the_separator_behind_each(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", as_lines(MANY))
    stored([source], tmp_path / "out")
    train, valid = texts_of(Store.open(tmp_path / "out"))
    assert len(valid) > 0
    assert train == [text for text in MANY if text not in valid]


def test_the_seed_decides_and_cores_do_not(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", as_lines(MANY))
    ids = [
        stored([source], tmp_path / f"out-{workers}-{seed}", seed=seed, workers=workers).manifest.id
        for workers, seed in [(1, 0), (2, np.int64(0)), (1, 1)]
    ]
    assert ids[0] == ids[1] != ids[2]


@needs_shared
def test_tinyshakespeare_has_the_tokens_that_nanogpt_prints(tmp_path: Path) -> None:
    text = (SHARED / "tinyshakespeare/input.txt").read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    train, valid = write(tmp_path / "a.txt", text[:cut]), write(tmp_path / "b.txt", text[cut:])
    stored([train], tmp_path / "out", valid_files=[valid], tokenizer=str(GPT2))
    store = Store.open(tmp_path / "out")
    assert len(store.train) == 301_966 + 1  # and the separator
    assert len(store.valid) == 36_059 + 1
    assert store.train[:-1].max() < store.separator == 50256


def test_the_summary_counts_what_is_there_and_what_is_left_out(tmp_path: Path) -> None:
    lines = as_lines(["é\n", "", "b", ""]) + b"{\n"
    folder = tmp_path / "in"
    write(folder / "a.jsonl", lines)
    write(folder / "b.txt", b"\xff")
    write(folder / "notes.md", "x")
    summary = stored([folder], tmp_path / "out", valid=0, on_bad="skip")
    assert (summary.manifest.train.documents, summary.tokens, summary.text_bytes) == (2, 6, 4)
    made = summary.manifest.made
    assert (made.empty, made.skipped, made.ignored, made.files) == (2, 2, 1, 2)
    assert "a.jsonl line 5: not JSON" in summary.problems[0]
    assert "b.txt line 1, byte 0: invalid UTF-8" in summary.problems[1]
    assert "2 empty documents, 2 that could not be read, 1 file of other formats" in str(summary)
    assert "no validation part" in str(summary)


HUB = {"train": MANY[:24], "validation": MANY[24:28], "test": MANY[28:]}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    for name, texts in HUB.items():
        write(tmp_path / f"hub/data/{name}-00000-of-00001.jsonl", as_lines(texts))
    return tmp_path / "hub"


class TestHeldOut:
    """Splits that are told apart by their names."""

    def test_the_validation_split_validates_and_the_test_split_is_left_out(
        self, tmp_path: Path, hub: Path
    ) -> None:
        summary = stored([hub], tmp_path / "out")
        assert texts_of(Store.open(tmp_path / "out")) == (HUB["train"], HUB["validation"])
        made = summary.manifest.made
        assert (made.files, made.held_out, made.valid) == (2, 1, 0)
        assert made.valid_sources == ("validation-00000-of-00001.jsonl",)
        assert f"validation part, by name of its split: {hub}/data/validation-00000" in str(summary)
        assert f"left out, by name of its split: {hub}/data/test-00000" in str(summary)
        assert "0 files of other formats, 1 of held-out splits" in str(summary)

    def test_no_held_out_text_trains_where_none_is_to_validate(
        self, tmp_path: Path, hub: Path
    ) -> None:
        summary = stored([hub], tmp_path / "out", valid=0)
        assert texts_of(Store.open(tmp_path / "out")) == (HUB["train"], [])
        assert summary.manifest.made.held_out == 2

    def test_given_validation_files_come_first(self, tmp_path: Path, hub: Path) -> None:
        stored([hub], tmp_path / "out", valid_files=[hub / "data/test-*"])
        assert texts_of(Store.open(tmp_path / "out")) == (HUB["train"], HUB["test"])

    def test_one_split_alone_is_divided_as_any_text(self, tmp_path: Path, hub: Path) -> None:
        stored([hub / "data/test-*"], tmp_path / "out", valid=0)
        assert texts_of(Store.open(tmp_path / "out")) == (HUB["test"], [])

    def test_a_saved_dataset_with_splits_is_used_by_their_names(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        splits = {name: datasets.Dataset.from_dict({"text": HUB[name]}) for name in HUB}
        datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
        stored([tmp_path / "saved"], tmp_path / "out")
        assert texts_of(Store.open(tmp_path / "out")) == (HUB["train"], HUB["validation"])


class TestTwice:
    """Text that is reached more than once."""

    @pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
    def test_documents_that_stand_in_two_files_are_refused_where_they_validate(
        self, tmp_path: Path, suffix: str
    ) -> None:
        write(tmp_path / "in/a.jsonl", as_lines(MANY))
        write(tmp_path / f"in/a{suffix}", as_lines(MANY) + b"\n")
        with pytest.raises(DataError, match="validation documents also stand in the training part"):
            stored([tmp_path / "in"], tmp_path / "out")
        assert not (tmp_path / "out").exists()
        summary = stored([tmp_path / "in"], tmp_path / "out", valid=0)
        assert summary.manifest.made.repeated == len(MANY)
        assert f"repeated: {len(MANY)} documents; of the validation part 0 documents also" in str(
            summary
        )

    def test_a_document_that_validates_and_trains_is_counted(self, tmp_path: Path) -> None:
        train = write(tmp_path / "train.jsonl", as_lines([*MANY, "short"]))
        valid = write(tmp_path / "valid.jsonl", as_lines(["one of its own\n" * 9, "short"]))
        summary = stored([train], tmp_path / "out", valid_files=[valid])
        assert summary.manifest.made.leaked == 1
        assert "of the validation part 1 document also in the training part" in str(summary)


def test_one_line_leaves_a_validation_part_and_what_cannot_gets_advice_that_works(
    tmp_path: Path,
) -> None:
    line = write(tmp_path / "line.txt", "one line of words, " * 40)
    assert stored([line], tmp_path / "line", valid=0.01).manifest.valid.tokens > 1
    short = write(tmp_path / "short.txt", "abc\n")
    summary = stored([short], tmp_path / "short", valid=0.01)
    assert summary.manifest.valid.tokens == 0
    assert "no validation part: give --valid-files, or a larger --valid such as 0.5" in str(summary)
    assert stored([short], tmp_path / "half", valid=0.5).manifest.valid.tokens == 3
    assert stored([short], tmp_path / "files", valid_files=[line]).manifest.valid.tokens > 1


def test_the_summary_and_the_manifest_say_what_the_tokenizer_lost_and_what_is_spelled(
    tmp_path: Path,
) -> None:
    tokenizer = Tokenizer.from_str(resolve("bytes").tokenizer.to_str())
    tokenizer.normalizer = normalizers.Replace("é", "e")
    tokenizer.save(str(tmp_path / "t.json"))
    source = write(tmp_path / "a.txt", "plain words\n" * 99 + "café </s> <|endoftext|>\n")
    summary = stored([source], tmp_path / "out", tokenizer=tmp_path / "t.json")
    made = Store.open(tmp_path / "out").manifest.made
    assert (made.compared, made.lost, made.unknown, made.spelled) == (1212, 1, 0, 2)
    assert r"lost by the tokenizer: 1 of 1212 characters compared ('\xe9' 1), 0 unk" in str(summary)
    assert "spelled in the text: 2, kept as ordinary text ('</s>' 1, '<|endofte" in str(summary)
    write(source, "é" * 9)
    with pytest.raises(DataError, match="9 of 9 characters do not survive"):
        stored([source], tmp_path / "none", tokenizer=tmp_path / "t.json")
    assert not (tmp_path / "none").exists()


def test_the_manifest_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    stored([write(tmp_path / "a.txt", "a\nb\n")], tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out/manifest.json").read_text()


def test_progress_goes_to_the_error_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "a.txt", "a\nb\n")
    stored([source], tmp_path / "out", quiet=False, tokenizer="train:300")
    output = capsys.readouterr()
    assert output.out == ""
    assert "learning train:300" in output.err
    assert "tokens" in output.err


SOURCES: dict[str, bytes] = {
    "empty.txt": b"",
    "empty.jsonl": b"",
    "million.jsonl": b'{"text": ""}\n' * 100_000,
    "utf8.txt": b"fine\nthen \xff",
    "good.txt": b"good\nand good\n",
}
BAD: dict[str, tuple[list[str], dict[str, object], type[LengthenError], str]] = {
    "empty": (["empty.txt", "empty.jsonl"], {}, DataError, "corpus: has no text; .* 1 empty doc"),
    "million": (
        ["million.jsonl"],
        {"valid": 0},
        DataError,
        "no text; left out: 100,000 empty documents",
    ),
    "utf8": (["utf8.txt"], {}, DataError, r"utf8\.txt line 2, byte 10: invalid UTF-8; mend it"),
    "all skipped": (["utf8.txt"], {"on_bad": "skip"}, DataError, "1 that could not be read"),
    "only validation": (["empty.txt"], {"valid_files": ["good.txt"]}, DataError, "has 0 tokens"),
    "missing": (["good.tx"], {}, SettingError, "no such file or folder.*did you mean"),
    "nothing": ([], {}, SettingError, "at least one file"),
    "both": (
        ["good.txt"],
        {"valid_files": ["*.txt"]},
        SettingError,
        "holds the same as .*good",
    ),
    "twice": (["-", "-"], {}, SettingError, "standard input can be read once"),
    "share": (["good.txt"], {"valid": 1}, SettingError, "valid: must be from 0 to below 1, got 1"),
    "nan": (["good.txt"], {"valid": float("nan")}, SettingError, "valid: must be from 0 to below"),
    "seed": (["good.txt"], {"seed": "three"}, SettingError, "seed: must be a whole number, got"),
    "workers": (["good.txt"], {"workers": 0}, SettingError, "workers: must be at least 1, got 0"),
    "on_bad": (["good.txt"], {"on_bad": "skp"}, SettingError, "on_bad.*did you mean 'skip'"),
    "stdin": (["-"], {"stdin_format": "json"}, SettingError, "stdin_format.*did you mean 'jsonl'"),
    "tokenizer": (["good.txt"], {"tokenizer": "gpt3"}, SettingError, "no such tokenizer"),
    "size": (["good.txt"], {"tokenizer": "train:9"}, SettingError, "must be train:N"),
}


def test_a_folder_without_a_file_is_said_to_have_no_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="corpus: has no text"):
        stored([tmp_path / "in"], tmp_path / "out", tokenizer="train:300")


@pytest.mark.parametrize(("sources", "options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    sources: list[str],
    options: dict[str, object],
    error: type[LengthenError],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in {*sources, "good.txt"} & SOURCES.keys():
        (tmp_path / name).write_bytes(SOURCES[name])
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=message) as caught:
        stored(sources, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


class TestOut:
    """What already lies at the place of the new store."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return write(tmp_path / "a.txt", "new\ntext\n")

    def test_an_empty_folder_is_used(self, tmp_path: Path, source: Path) -> None:
        (tmp_path / "out").mkdir()
        stored([source], tmp_path / "out")
        assert verify(tmp_path / "out") == []

    def test_missing_folders_above_are_made(self, tmp_path: Path, source: Path) -> None:
        stored([source], tmp_path / "x/y/out")
        assert verify(tmp_path / "x/y/out") == []

    def test_a_store_is_kept_unless_it_is_to_be_replaced(
        self, tmp_path: Path, source: Path
    ) -> None:
        old = stored([write(tmp_path / "b.txt", "old\n")], tmp_path / "out").manifest.id
        with pytest.raises(SettingError, match="new or empty.*--overwrite"):
            stored([source], tmp_path / "out")
        assert Store.open(tmp_path / "out").id == old
        stored([source], tmp_path / "out", overwrite=True)
        assert Store.open(tmp_path / "out").id != old
        assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt", "out"]

    def test_what_is_no_store_is_never_replaced(self, tmp_path: Path, source: Path) -> None:
        stored([source], tmp_path / "out")
        write(tmp_path / "out/thesis.tex", "all my work")
        with pytest.raises(SettingError, match="holds other things and is no token store"):
            stored([source], tmp_path / "out", overwrite=True)
        assert (tmp_path / "out/thesis.tex").exists()

    def test_a_file_or_a_link_is_no_place(self, tmp_path: Path, source: Path) -> None:
        for out in (source, source / "out"):
            with pytest.raises(SettingError, match="directory"):
                stored([source], out, overwrite=True)
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "empty")
        with pytest.raises(SettingError, match="must be a directory, no link"):
            stored([source], tmp_path / "link")

    def test_a_name_that_is_too_long_is_refused(self, tmp_path: Path, source: Path) -> None:
        with pytest.raises(SettingError, match="name must be at most 200 bytes"):
            stored([source], tmp_path / ("long" * 60))


class FailingDisk(Disk):
    """A disk that is full at one operation."""

    def __init__(self, number: int) -> None:
        super().__init__(self._fail)
        self.number, self.failed = number, ""

    def _fail(self, operation: int, name: str, path: Path) -> None:
        if operation == self.number:
            self.failed = name
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_f40_a_disk_that_fails_at_any_operation_leaves_nothing_or_a_whole_store(
    tmp_path: Path,
) -> None:
    source, out = write(tmp_path / "a.txt", "new\ntext\n"), tmp_path / "out"
    for number in range(1, 100):
        disk = FailingDisk(number)
        with contextlib.suppress(StorageError):
            stored([source], out, disk=disk)
        if not disk.failed:
            break
        if out.exists():  # a fault behind the rename comes too late to matter
            assert verify(out) == []
            shutil.rmtree(out)
        assert os.listdir(tmp_path) == ["a.txt"]
    assert 12 < number < 40
    assert verify(out) == []


def test_f40_a_disk_that_fails_while_a_store_is_replaced_leaves_the_old_or_the_new(
    tmp_path: Path,
) -> None:
    source, out = write(tmp_path / "in/a.txt", "new\ntext\n"), tmp_path / "store/out"
    new = stored([source], tmp_path / "in/new").manifest.id
    old = stored([write(tmp_path / "in/b.txt", "old\n")], out).manifest.id
    for number in range(1, 100):
        disk = FailingDisk(number)
        with contextlib.suppress(StorageError):
            stored([source], out, overwrite=True, disk=disk)
        assert Store.open(out).id in (old, new)
        assert verify(out) == []
        if not disk.failed:
            break
        # The old one stays, hidden, if it cannot be deleted or the new name may not be on the disk.
        kept = disk.failed in ("remove", "sync_directory")
        assert os.listdir(out.parent) == ["out"] or kept
    assert Store.open(out).id == new


KILL = """
import os, signal, sys
from pathlib import Path
from lengthen.data.prepare import Summary, prepare
from lengthen.util.disk import Disk

def run(number):
    def kill(operation, name, path):
        if operation == number:
            os.kill(os.getpid(), signal.SIGKILL)
    out = Path(f"out-{number}")
    prepare(["a.txt"], out, tokenizer="bytes", quiet=True, disk=Disk(kill))
    os._exit(0)

for number in range(1, 100):
    child = os.fork() or run(number)
    status = os.waitpid(child, 0)[1]
    print(number, os.waitstatus_to_exitcode(status), flush=True)
    if status == 0:
        break
"""


def test_f40_a_kill_at_any_operation_leaves_nothing_that_opens(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "new\ntext\n")
    output = subprocess.check_output([sys.executable, "-c", KILL], cwd=tmp_path, text=True)
    exits = [int(line.split()[1]) for line in output.splitlines()]
    assert exits[:-1] == [-9] * (len(exits) - 1)
    assert exits[-1] == 0
    assert len(exits) > 15
    for folder in tmp_path.glob("out-*"):
        assert verify(folder) == []
    assert len(list(tmp_path.glob("out-*"))) == 2  # killed behind the rename, and not at all


def test_f40_an_interrupt_removes_the_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lengthen.data.store_writer.SplitWriter.add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stored([write(tmp_path / "a.txt", "new\ntext\n")], tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_f45_an_id_outside_of_the_vocabulary_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lengthen.data.prepare.vocabulary_size", lambda _: 200)
    with pytest.raises(DataError, match="gave id 256, its vocabulary is 200"):
        stored([write(tmp_path / "a.txt", "text\n")], tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_f45_text_that_spells_the_separator_stays_text(tmp_path: Path) -> None:
    text = "a<|endoftext|>b\n<|endoftext|>"
    summary = stored([write(tmp_path / "a.jsonl", as_lines([text]))], tmp_path / "out", valid=0)
    store = Store.open(tmp_path / "out")
    assert summary.tokens == len(text) + 1
    assert store.train.tolist().count(store.separator) == 1


# Not the resource usage that `getrusage` gives: a new process inherits its parent's peak there.
PEAK = """
import json, re, sys
from pathlib import Path
from lengthen.data.prepare import Summary, prepare

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) * 1024 / 1e6

start = peak()
summary = prepare([sys.argv[1]], "out", tokenizer="train:300", valid=0, workers=2, quiet=True)
print(json.dumps({"tokens": summary.tokens, "start": start, "peak": peak()}))
"""
UNIT = "\nThe door was shut; she didn't knock, but waited 12 minutes.\tThen it opened"


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


def measure(path: Path) -> dict[str, float]:
    """Prepare a file in a process of its own; memory in MB."""
    command = [sys.executable, "-c", PEAK, path.name]
    measured: dict[str, float] = json.loads(subprocess.check_output(command, cwd=path.parent))
    return measured


def assert_tokens_of_repeated_unit(folder: Path, count: int) -> None:
    """A unit begins with a line end behind a letter, so the whole has its tokens `count` times."""
    store = Store.open(folder / "out")
    unit = store.tokenizer().encode(UNIT).ids
    assert len(store.train) == count * len(unit) + 1
    assert (store.train[:-1].reshape(count, len(unit)) == unit).all()


@needs_proc
def test_f42_a_long_document_takes_bounded_memory(tmp_path: Path) -> None:
    count = 4 * 10**6 // len(UNIT)
    measured = measure(write(tmp_path / "a.txt", UNIT * count))
    # Encoded whole, 4 MB take some 530 MB; the sample for the tokenizer is all of the text.
    assert measured["peak"] - measured["start"] < 160
    assert_tokens_of_repeated_unit(tmp_path, count)


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_f42_a_document_of_500_mb_is_handled(tmp_path: Path, name: str) -> None:
    count = 500 * 10**6 // len(UNIT)
    text = UNIT * count
    write(tmp_path / name, as_lines([text]) if name.endswith("jsonl") else text)
    del text
    measured = measure(tmp_path / name)
    print(measured)
    assert measured["peak"] < 2000
    assert_tokens_of_repeated_unit(tmp_path, count)


def test_f40_a_limit_on_file_sizes_reads_as_a_full_disk(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text\n" * 9999)
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999));"
        "from lengthen.data.prepare import prepare;"
        "prepare(['a.txt'], 'out', tokenizer='bytes', quiet=True)"
    )
    result = subprocess.run(
        [sys.executable, "-c", limited], cwd=tmp_path, capture_output=True, text=True
    )
    assert "StorageError" in result.stderr.splitlines()[-1]
    assert os.listdir(tmp_path) == ["a.txt"]

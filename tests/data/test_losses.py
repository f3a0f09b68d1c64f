"""What a tokenizer loses is counted to the character, and refused where it is much."""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from lengthen.data.byte_level import SEPARATOR
from lengthen.data.encode import Piece, encode_all, recut
from lengthen.data.losses import Losses
from lengthen.data.tokenizer import resolve
from lengthen.util.errors import DataError

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
    return trained(
        tokenizer, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    )


def few_bytes() -> Tokenizer:
    """Byte-level, but knows only the bytes of its sample, and says nothing about the others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return trained(tokenizer, trainers.BpeTrainer(special_tokens=SPECIAL, show_progress=False))


def trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(SAMPLE, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def separator(tokenizer: Tokenizer) -> int:
    number = tokenizer.token_to_id(SEPARATOR)
    assert number is not None
    return number


KINDS: list[Callable[[], Tokenizer]] = [byte_level, unigram, word_piece, words, few_bytes]


def losses_of(tokenizer: Tokenizer, texts: list[str], *, cuts: bool = False) -> Losses:
    pieces = recut((Piece("train", text, True, 0) for text in texts), cuts=cuts)
    losses = Losses()
    for encoded in encode_all(tokenizer, separator(tokenizer), pieces, workers=2):
        losses.add(encoded.losses)
    return losses


@pytest.mark.parametrize("make", KINDS)
def test_what_a_tokenizer_learned_from_is_kept_whole(
    make: Callable[[], Tokenizer],
) -> None:
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
    losses = losses_of(words(), ["The unknown cat"])
    assert (losses.unknown, losses.lost.total()) == (1, len("unknown"))


def test_an_unknown_token_that_the_text_spells_is_not_lost() -> None:
    losses = losses_of(words(), ["The <unk> cat", "The <unk> dog"])
    assert losses.unknown == 3
    assert losses.lost == {"d": 1, "o": 1, "g": 1}


@pytest.mark.parametrize(
    ("normalizer", "lost"),
    [
        (normalizers.Lowercase(), {"T": 1, "I": 1}),
        (normalizers.StripAccents(), {}),
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
    texts = ["The cat" * 100 + "漢" * 7]
    assert losses_of(few_bytes(), texts).counted()["lost"] == 7
    with pytest.raises(DataError, match=r"8 of 708 characters do not survive.*\('\\u6f22' 8\).*1%"):
        losses_of(few_bytes(), [texts[0] + "漢"]).counted()


@pytest.mark.parametrize("make", KINDS)
def test_text_that_spells_a_special_token_is_counted_and_never_becomes_one(
    make: Callable[[], Tokenizer],
) -> None:
    tokenizer = make()
    pieces = [Piece("train", "The </s> cat <|im_end|> [SEP] <|endoftext", True, 0)]
    ids = [tokenizer.token_to_id("</s>"), separator(tokenizer)]
    if make in (unigram, words):  # their models know whole words, special or not
        with pytest.raises(DataError, match="special token of text that spells </s>; take that ou"):
            list(encode_all(tokenizer, separator(tokenizer), iter(pieces), workers=1))
        return
    (encoded,) = encode_all(tokenizer, separator(tokenizer), iter(pieces), workers=1)
    assert [id for id in encoded.ids.tolist() if id in ids] == ids[1:]
    assert encoded.losses.spelled == {"</s>": 1, "<|im_end|>": 1, "[SEP]": 1}


def test_the_spellings_of_other_families_are_counted() -> None:
    spellings = ["[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|EOT|>", "<extra_id_0>"]
    spellings.append("<\uff5cend\u2581of\u2581sentence\uff5c>")
    found = losses_of(byte_level(), ["It is " + " here ".join(spellings)]).spelled
    assert found == dict.fromkeys(spellings, 1)


def test_ordinary_text_spells_nothing() -> None:
    text = "if a<b and c>d: x[1] = <html> [sic] <|> <s t>"
    assert losses_of(byte_level(), [text]).spelled == {}

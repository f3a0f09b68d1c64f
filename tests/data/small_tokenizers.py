"""Small tokenizers as the families of published models have them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXT = ["it was the best of times, it was the worst of times; in 1815\n\n\n\nand\n\n"] * 20


def qwen(*special: str) -> Tokenizer:
    """Byte-level BPE that keeps line ends together and takes digits one by one."""
    tokenizer = Tokenizer(models.BPE())
    split = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def llama(*, begins: bool = True) -> Tokenizer:
    """BPE over characters as SentencePiece has it: spaces are signs, and what is rare is bytes.

    Its file asks for a token in front of every text, for at most 4 tokens, and for 6 at least.
    """
    letters = sorted({letter for text in TEXT for letter in text.replace(" ", "\u2581")})
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("a", "s")]
    names += ["th", "the", "\u2581the", "as"]
    model = models.BPE(
        vocab={name: number for number, name in enumerate(names)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names[:3]])
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(pad_id=0, pad_token="<unk>", length=6)
    return tokenizer


def as_folder(folder: Path, tokenizer: Tokenizer, **files: Any) -> Path:
    """Write a tokenizer.json and other files, by their names without `.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    return with_files(folder, **files)


def as_two_files(folder: Path, tokenizer: Tokenizer, **files: Any) -> Path:
    """Write vocab.json and merges.txt, and other files."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    return with_files(folder, **files)


def with_files(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder

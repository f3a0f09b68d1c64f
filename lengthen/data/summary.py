"""What `prepare` did, for a person."""

from dataclasses import dataclass
from pathlib import Path

from lengthen.data.store import Manifest
from lengthen.data.store_writer import left_out


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was done; prints as a few lines for a person."""

    path: Path
    manifest: Manifest
    problems: tuple[str, ...]  # the first few of the things that were skipped, one line each
    splits: tuple[str, ...]  # what names of splits were taken for, one line each
    lost: str  # the commonest characters that the tokenizer loses
    spelled: str  # the commonest spellings of special tokens
    tokenizer_seconds: float
    encode_seconds: float

    @property
    def tokens(self) -> int:
        """Tokens of both parts, separators included."""
        return self.manifest.train.tokens + self.manifest.valid.tokens

    @property
    def documents(self) -> int:
        """Documents of both parts; a document that was divided counts in both."""
        return self.manifest.train.documents + self.manifest.valid.documents

    @property
    def text_bytes(self) -> int:
        """Bytes of UTF-8 of both parts."""
        return self.manifest.train.text_bytes + self.manifest.valid.text_bytes

    def __str__(self) -> str:
        manifest, made = self.manifest, self.manifest.made
        rate = self.text_bytes / 1e6 / max(self.encode_seconds, 1e-9)
        parts = [
            f"{name}: {split.tokens} tokens of {split.documents} documents, "
            f"{split.text_bytes} bytes of text"
            for name, split in (("train", manifest.train), ("valid", manifest.valid))
        ]
        lines = [
            *parts,
            *self.splits,
            f"left out: {left_out(made)}",
            *(f"  {problem}" for problem in self.problems),
            f"repeated: {made.repeated} documents; {made.leaked} validation documents are also in "
            "the training part",
            f"lost by the tokenizer: {made.lost} of {made.compared} characters compared"
            f"{_in_brackets(self.lost)}, {made.unknown} unknown tokens",
            f"special tokens spelled in the text: {made.spelled}, kept as ordinary text"
            f"{_in_brackets(self.spelled)}",
            f"tokenizer ready in {self.tokenizer_seconds:.1f} s, "
            f"encoded in {self.encode_seconds:.1f} s ({rate:.1f} MB/s)",
        ]
        if not manifest.valid.tokens:
            lines.append(f"no validation part: {_way_to_validate(manifest)}")
        store = f"store {self.path}: id {manifest.id}, vocabulary {manifest.vocabulary}"
        return "\n  ".join([store, *lines])


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _way_to_validate(manifest: Manifest) -> str:
    if manifest.made.valid_sources:
        return "the files for it have no text"
    if not manifest.made.valid:
        return "give --valid or --valid-files if you need one"
    # Half of a document of two characters or more is a character.
    larger = "a larger --valid, such as 0.5, or "
    divisible = manifest.train.text_bytes > manifest.train.documents
    return f"the text is too short for it; give {larger * divisible}--valid-files"

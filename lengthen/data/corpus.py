"""The text of one `prepare`: which sources train, which validate, and the documents in them."""

import re
from dataclasses import dataclass, replace
from operator import index

from lengthen.data.checks import check_sources_differ
from lengthen.data.encode import cut_documents
from lengthen.data.readers import LISTED, LeftOut, Parts, holds_ids, read_documents
from lengthen.data.sources import Source, find_sources, group_by_split
from lengthen.data.train_valid_split import choose_split_rule, sample_texts, split_documents
from lengthen.util.errors import SettingError, nearest

VALID = 0.01  # of the text validates


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What `prepare` was asked for, checked."""

    sources: tuple[str, ...]
    valid_files: tuple[str, ...]
    tokenizer: str
    separator: str | None
    valid: float | None  # None: VALID of a text
    field: str
    stdin_format: str
    seed: int
    on_bad: str
    workers: int
    in_place: bool
    part: tuple[int, int] | None  # its number, from 1, and how many there are

    def __post_init__(self) -> None:
        if not self.sources:
            raise SettingError("source", "must be at least one file, folder, glob or -")
        if (*self.sources, *self.valid_files).count("-") > 1:
            raise SettingError("source", "standard input can be read once")
        if self.part and "-" in (*self.sources, *self.valid_files):
            raise SettingError("part", "needs sources that every part can read, not standard input")
        if self.valid is not None and not 0 <= self.valid < 1:
            raise SettingError("valid", "must be from 0 to below 1", self.valid)
        try:
            object.__setattr__(self, "seed", index(self.seed))  # numpy's would not go into JSON
        except TypeError:
            raise SettingError("seed", "must be a whole number", self.seed) from None
        if self.workers < 1:
            raise SettingError("workers", "must be at least 1", self.workers)
        for name, choices in (("stdin_format", ("txt", "jsonl")), ("on_bad", ("stop", "skip"))):
            if (value := getattr(self, name)) not in choices:
                hint = nearest(value, choices)
                raise SettingError(name, f"must be {' or '.join(choices)}", value, hint)


@dataclass(frozen=True)
class Corpus:
    """The sources, and how to read them."""

    train: list[Source]
    valid: list[Source]  # files of the validation part; none: a share of `train`
    unused: list[Source]  # of splits that neither train nor validate
    ignored: int  # files in folders that are no text
    valid_share: float
    of_ids: bool  # of the tokenizer, and of no text
    options: PrepareOptions

    @property
    def size(self) -> int:
        """Bytes on the disk that are read."""
        return sum(source.size for source in (*self.train, *self.valid))

    def describe_splits(self) -> tuple[str, ...]:
        """Return a line for each use that names of splits were put to."""
        valid = [] if self.options.valid_files else self.valid
        return tuple(
            f"{use}, by name of its split: {', '.join(one.name for one in sources[:LISTED])}"
            + (f" and {len(sources) - LISTED} more" if len(sources) > LISTED else "")
            for use, sources in (("validation part", valid), ("left out", self.unused))
            if sources
        )

    def sample(self) -> list[str]:
        """Read the training sources for what the tokenizer learns from."""
        parts = self._read(self.train, LeftOut(self.options.on_bad))
        return sample_texts(cut_documents(parts, cuts=True), self.options.seed)

    def documents(self, left_out: LeftOut) -> Parts:
        """Yield every document of our part in parts, each with its split."""
        return self._of_part(self._all_documents(left_out), left_out)

    def _of_part(self, parts: Parts, left_out: LeftOut) -> Parts:
        """Yield the documents that begin in our share of the bytes; count what is left out there.

        All before them are read as well where a share validates, since that is chosen by number.
        """
        number, _ = self.options.part or (1, 1)
        reached, begins, own = number == 1, True, 0
        for part in parts:
            if begins:
                own = self._part_at(part.bytes_read)
            if own >= number and not reached:
                left_out.clear()
                reached = True
            if own > number:
                return
            begins = part.is_last
            if own == number:
                yield part
        if not reached:
            left_out.clear()

    def _all_documents(self, left_out: LeftOut) -> Parts:
        # Counted by itself, or what is left out would be counted twice.
        first_reading = self._read(self.train, LeftOut(self.options.on_bad))
        rule = choose_split_rule(first_reading, self.valid_share, self.options.seed)
        read = self._read if self.valid_share else self._read_ours
        yield from split_documents(read(self.train, left_out), rule)
        before = sum(source.size for source in self.train)
        for part in self._read_ours(self.valid, left_out, before):
            yield replace(part, split="valid")

    def _part_at(self, place: int) -> int:
        """Return the number of the part that a document belongs to, by the bytes up to it."""
        return 1 + place * (self.options.part or (1, 1))[1] // (self.size + 1)

    def _read_ours(self, sources: list[Source], left_out: LeftOut, before: int = 0) -> Parts:
        """Read sources but the first ones, as far as they lie in earlier parts as a whole."""
        number, _ = self.options.part or (1, 1)
        while sources and self._part_at(before + sources[0].size) < number:
            before, sources = before + sources[0].size, sources[1:]
        return self._read(sources, left_out, before)

    def _read(self, sources: list[Source], left_out: LeftOut, before: int = 0) -> Parts:
        for part in read_documents(sources, self.options.field, left_out, bytes_before=before):
            if part.text:
                yield part
            else:
                left_out.add_empty()


def parse_part(text: str | None) -> tuple[int, int] | None:
    """Return "i/n" as two numbers; raises SettingError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise SettingError("part", "must be i/n with i from 1 to n", text)
    return int(found[1]), int(found[2])


def find_corpus(options: PrepareOptions, stdin: Source | None) -> Corpus:
    """Find all sources; raises SettingError, also for what would be read twice.

    Where names tell splits apart, those of the validation split validate, unless `valid_files` do
    or nothing is to, and those of the test split are left out.
    """
    sources, ignored = find_sources(options.sources, stdin)
    valid, ignored_too = find_sources(options.valid_files, stdin)
    groups = group_by_split(sources)
    train, unused = groups["train"], groups["test"]
    share = VALID if options.valid is None else options.valid
    if share == 0:  # that of `valid_files` too
        unused = groups["validation"] + unused
    elif groups["validation"]:
        valid, share = groups["validation"], 0.0
    check_sources_differ([*train, *valid])
    of_ids = _are_of_ids([*train, *valid], options)
    return Corpus(train, valid, unused, len(ignored) + len(ignored_too), share, of_ids, options)


def _are_of_ids(sources: list[Source], options: PrepareOptions) -> bool:
    """Say whether sources are of token ids; raises SettingError where some are and some are not."""
    # Tables of one corpus are alike: to open each of a thousand twice would take long.
    kinds: dict[str, bool | None] = {}
    for source in sources:
        if kinds.get(source.kind) is None:
            kinds[source.kind] = holds_ids(source, options.field)
    ids, text = (
        next((one.name for one in sources if kinds[one.kind] is wanted), None)
        for wanted in (True, False)
    )
    if ids and text:
        rule, hint = f"is of token ids, and {text!r} is of text", "name the files of one kind alone"
        raise SettingError("source", rule, ids, hint)
    if options.part and ids:
        hint = "name them all, with --in-place"
        raise SettingError("part", "is for text; files of token ids are parts already", None, hint)
    if options.in_place and not ids:
        hint = "leave out --in-place"
        raise SettingError("in_place", "needs files of token ids; text is encoded", None, hint)
    if options.valid and ids:
        rule = "must be left out, as no share of token ids validates"
        raise SettingError("valid", rule, options.valid, "give --valid-files")
    return bool(ids)

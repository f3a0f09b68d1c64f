"""`prepare`: text in, a token store out, whole or not at all."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from lengthen.data import tokenizer as library
from lengthen.data.divide import divide, divided, sampled, undivided
from lengthen.data.encode import Piece, can_be_cut, encode_all, library_threads, recut
from lengthen.data.losses import Losses, most_of
from lengthen.data.readers import Bad, Item, Part, read
from lengthen.data.repeats import Repeats
from lengthen.data.sources import Kind, Source, find
from lengthen.data.splits import by_name, must_differ
from lengthen.data.store import Made
from lengthen.data.store_writer import StoreWriter, check_out, commit
from lengthen.data.summary import Summary
from lengthen.data.tokenizer_folder import TextTokenizer
from lengthen.data.unpack import BLOCK
from lengthen.util import console as bar
from lengthen.util.disk import Disk, temporary_beside
from lengthen.util.errors import DataError, SettingError, StorageError, nearest

SHOWN = 10  # of the things that were skipped
NAMED = 100  # sources that the manifest names


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `prepare` was asked for, checked."""

    sources: tuple[str, ...]
    valid_files: tuple[str, ...]
    tokenizer: str
    separator: str | None
    valid: float
    field: str
    stdin_format: str
    seed: int
    on_bad: str
    workers: int

    def __post_init__(self) -> None:
        if not self.sources:
            raise SettingError("source", "must be at least one file, folder, glob or -")
        if (*self.sources, *self.valid_files).count("-") > 1:
            raise SettingError("source", "standard input can be read once")
        if not (math.isfinite(self.valid) and 0 <= self.valid < 1):
            raise SettingError("valid", "must be from 0 to below 1", self.valid)
        if self.workers < 1:
            raise SettingError("workers", "must be at least 1", self.workers)
        _check_name("stdin_format", self.stdin_format, ("txt", "jsonl"))
        _check_name("on_bad", self.on_bad, ("stop", "skip"))


def _check_name(setting: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise SettingError(setting, f"must be {' or '.join(names)}", value, nearest(value, names))


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str,
    separator: str | None = None,
    valid: float = 0.01,
    valid_files: Sequence[str | Path] = (),
    field: str = "text",
    stdin_format: str = "txt",
    seed: int = 0,
    on_bad: str = "stop",
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
    disk: Disk | None = None,
) -> Summary:
    """Turn text into a token store at `out`, with bounded memory, on `workers` threads (all cores).

    `sources` and `valid_files` are files, folders, globs or `-`; with `valid_files`, `valid` is
    not used. `separator` names the token between documents; None takes the tokenizer's own. The
    store depends on the documents, `tokenizer`, `separator`, `valid` and `seed` alone. It appears
    under its name when it is complete; whatever happens before leaves nothing there. Raises
    SettingError for what was asked wrongly, DataError for text or a tokenizer that cannot be used,
    StorageError where the disk fails.
    """
    options = Options(
        sources=tuple(map(str, sources)),
        valid_files=tuple(map(str, valid_files)),
        tokenizer=str(tokenizer),
        separator=separator,
        valid=0.0 if valid_files else valid,
        field=field,
        stdin_format=stdin_format,
        seed=seed,
        on_bad=on_bad,
        workers=cores() if workers is None else workers,
    )
    out = Path(out).absolute()
    check_out(out, overwrite)
    disk = (disk or Disk()).at("prepare")
    temporary = temporary_beside(out)
    try:
        disk.make_directory(temporary)
        summary = _fill(temporary, out, options, disk, progress)
        check_out(out, overwrite)  # hours later, perhaps
        commit(disk, temporary, out)
    except BaseException:
        # A disk that fails may fail here too, and the first error is the one to tell.
        with contextlib.suppress(StorageError):
            disk.remove(temporary)
        raise
    return summary


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@dataclass
class Tally:
    """What was left out, counted while documents stream by."""

    empty: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)

    def kept(self, items: Iterator[Item], on_bad: str) -> Iterator[Part]:
        """Let documents with text through and count the rest; raises DataError at the first `Bad`.

        With `on_bad="skip"` that is counted too.
        """
        for item in items:
            if isinstance(item, Part) and item.text:
                yield item
            elif isinstance(item, Part):
                self.empty += 1
            elif on_bad == "stop":
                raise DataError(f"source {item.reason}; mend it, or leave it out: --on-bad skip")
            else:
                self._skip(item)

    def _skip(self, bad: Bad) -> None:
        self.skipped += 1
        if len(self.problems) < SHOWN:
            self.problems.append(bad.reason)


@dataclass(frozen=True)
class Corpus:
    """The sources that were found, and how to read them."""

    train: list[Source]
    valid: list[Source]
    held_out: list[Source]
    ignored: int  # files in folders that are no text
    options: Options

    @classmethod
    def find(cls, options: Options, standard_input: Source | None) -> "Corpus":
        """Find all sources; raises SettingError, also for what would be read twice.

        Where names tell splits apart, those of the validation split validate, unless `valid_files`
        do or nothing is to, and those of the test split are left out.
        """
        found, ignored = find(options.sources, standard_input)
        valid, ignored_too = find(options.valid_files, standard_input)
        named = by_name(found)
        held_out = named["test"]
        if options.valid == 0:
            held_out = named["validation"] + held_out
        elif named["validation"]:
            valid, options = named["validation"], replace(options, valid=0.0)
        must_differ(named["train"], valid, by_name=not options.valid_files)
        return cls(named["train"], valid, held_out, len(ignored) + len(ignored_too), options)

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(source.size for source in (*self.train, *self.valid))

    def splits(self) -> tuple[str, ...]:
        """Return a line for each use that names of splits were put to."""
        by_name = self.valid if not self.options.valid_files else []
        uses = (("validation part", by_name), ("left out", self.held_out))
        return tuple(
            f"{use}, by name of its split: {', '.join(one.name for one in sources[:SHOWN])}"
            + f" and {len(sources) - SHOWN} more" * (len(sources) > SHOWN)
            for use, sources in uses
            if sources
        )

    def parts(self, tally: Tally) -> Iterator[Part]:
        """Read the documents that are to be trained on, or divided."""
        return self._read(self.train, tally, before=0)

    def _read(self, sources: list[Source], tally: Tally, before: int) -> Iterator[Part]:
        on_bad = self.options.on_bad
        # Where the first bad text stops everything, looking ahead would only cost time.
        whole = on_bad == "skip"
        items = read(sources, self.options.field, whole_texts=whole, before=before)
        return tally.kept(items, on_bad)

    def sample(self) -> list[str]:
        """Read all of the sources for what the tokenizer learns from."""
        parts = undivided(self.parts(Tally()), "train")
        return sampled(recut(parts, cuts=True), self.options.seed)

    def pieces(self, tally: Tally) -> Iterator[Piece]:
        """Divide the sources into training and validation."""
        valid, seed = self.options.valid, self.options.seed
        # A tally of its own for every reading, or what is left out would be counted twice.
        division = divide(self.parts(Tally()), valid, seed)
        before = sum(source.size for source in self.train)
        return chain(
            divided(self.parts(tally), division),
            undivided(self._read(self.valid, tally, before), "valid"),
        )


def _fill(temporary: Path, out: Path, options: Options, disk: Disk, shown: bool) -> Summary:
    spooled = _spooled(temporary, options, disk)
    corpus = Corpus.find(options, spooled)
    tally, repeats = Tally(), Repeats()
    began = time.monotonic()
    tokenizer = _tokenizer(corpus, shown)
    learned = time.monotonic()
    with (
        contextlib.closing(StoreWriter(disk, temporary, tokenizer)) as writer,
        bar.line(corpus.size, "prepare", shown=shown) as line,
    ):
        pieces = repeats.passing(corpus.pieces(tally))
        losses = _encode(pieces, tokenizer, options.workers, writer, line)
        encoded = time.monotonic()
        if spooled:  # the folder is about to become the store
            disk.remove(spooled.path)
        manifest = writer.finish(_made(corpus, tally, {**losses.counted(), **repeats.counted()}))
    return Summary(
        path=out,
        manifest=manifest,
        problems=tuple(tally.problems),
        splits=corpus.splits(),
        lost=most_of(losses.lost),
        spelled=most_of(losses.spelled),
        tokenizer_seconds=learned - began,
        encode_seconds=encoded - learned,
    )


def _encode(
    pieces: Iterator[Piece],
    found: TextTokenizer,
    workers: int,
    writer: StoreWriter,
    line: bar.Line,
) -> Losses:
    losses = Losses()
    cut = recut(pieces, cuts=can_be_cut(found.tokenizer))
    tokens = text_bytes = 0
    began = time.monotonic()
    # Closed, not left to the collector: threads that still encode must end before the files do.
    with contextlib.closing(encode_all(found.tokenizer, found.separator, cut, workers)) as results:
        for encoded in results:
            writer.add(encoded)
            losses.add(encoded.losses)
            tokens += len(encoded.ids)
            text_bytes += encoded.text_bytes
            rate = text_bytes / 1e6 / (time.monotonic() - began)
            line.update(encoded.at, f"{tokens} tokens, {rate:.1f} MB/s of text")
    return losses


def _made(corpus: Corpus, tally: Tally, counts: dict[str, int]) -> Made:
    options = corpus.options
    return Made(
        sources=_base_names(options.sources),
        valid_sources=_base_names(options.valid_files or [one.name for one in corpus.valid]),
        files=len(corpus.train) + len(corpus.valid),
        ignored=corpus.ignored,
        tokenizer=_base_names([options.tokenizer])[0],
        valid=options.valid,
        seed=options.seed,
        field=options.field,
        empty=tally.empty,
        skipped=tally.skipped,
        held_out=len(corpus.held_out),
        **counts,
    )


def _base_names(arguments: Iterable[str]) -> tuple[str, ...]:
    """Return names without the folders of this machine, and in Unicode whatever they are."""
    names = [Path(argument).name or argument for argument in arguments]
    return tuple(os.fsencode(name).decode("utf-8", "replace") for name in names[:NAMED])


def _tokenizer(corpus: Corpus, shown: bool) -> TextTokenizer:
    spec, separator = corpus.options.tokenizer, corpus.options.separator
    if not library.needs_sample(spec, separator):
        return library.resolve(spec, separator=separator)
    with bar.line(corpus.size, "tokenizer", shown=shown) as line:
        line.say(f"reading a sample for {spec}")
        sample = corpus.sample()
        line.say(f"learning {spec} from {sum(map(len, sample)) / 1e6:.1f} million characters")
        with library_threads(True):
            return library.resolve(spec, sample, separator)


def _spooled(folder: Path, options: Options, disk: Disk) -> Source | None:
    """Copy standard input to the disk, since it is read more than once."""
    if "-" not in (*options.sources, *options.valid_files):
        return None
    kind = options.stdin_format
    path = folder / f"stdin.{kind}"
    stream = sys.stdin.buffer
    written = disk.write_file(path, iter(lambda: stream.read(BLOCK), b""))
    known: Kind = "jsonl" if kind == "jsonl" else "txt"
    return Source(path, known, written.size, "standard input", piped=True)

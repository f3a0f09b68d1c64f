"""`prepare`: text or token ids in, a token store out, whole or not at all."""

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lengthen.data.checks import DuplicateCounter, RoundTripCounts, list_most_common
from lengthen.data.corpus import Corpus, PrepareOptions, find_corpus, parse_part
from lengthen.data.encode import can_be_cut, cut_documents, encode, library_threads
from lengthen.data.readers import BLOCK, LeftOut, Parts
from lengthen.data.shards_of_ids import COPY, IdReader
from lengthen.data.sources import Kind, Source
from lengthen.data.store_manifest import DOCUMENTS, PARTS, Manifest, Provenance, Shard
from lengthen.data.store_writer import (
    SplitWriter,
    check_amount,
    check_output_folder,
    part_name,
    write_manifest,
)
from lengthen.data.tokenizer import needs_sample, resolve, vocabulary_size
from lengthen.data.tokenizer_files import TextTokenizer
from lengthen.util import console as bar
from lengthen.util.disk import Disk, PathOrPaths, as_path, temporary_beside
from lengthen.util.errors import SettingError, StorageError
from lengthen.util.tables import Printable, counted

NAMED = 100  # sources that the manifest names


@dataclass(frozen=True, kw_only=True, repr=False)
class Summary(Printable):
    """What was done; prints as a few lines for a person."""

    path: Path
    manifest: Manifest
    problems: tuple[str, ...] = ()  # the first few of the things that were skipped, one line each
    splits: tuple[str, ...] = ()  # what names of splits were taken for, one line each
    lost: str = ""  # the commonest characters that the tokenizer loses
    spelled: str = ""  # the commonest spellings of special tokens
    tokenizer_seconds: float = 0.0
    encode_seconds: float = 0.0  # 0: nothing was encoded, as by `join`

    @property
    def tokens(self) -> int:
        """Tokens of both parts, separators included."""
        return self.manifest.train.tokens + self.manifest.valid.tokens

    @property
    def text_bytes(self) -> int | None:
        """Bytes of UTF-8 of both parts; None where they are not known."""
        train, valid = self.manifest.train.text_bytes, self.manifest.valid.text_bytes
        return None if train is None or valid is None else train + valid

    @property
    def parts(self) -> list[str]:
        """What is printed."""
        manifest, made = self.manifest, self.manifest.made
        lines = [
            f"store {self.path}: id {manifest.id}, vocabulary {manifest.vocabulary}",
            *(
                f"{name}: {split.tokens} tokens of {counted(split.documents, 'document')}"
                + ("" if self.text_bytes is None else f", {split.text_bytes} bytes of text")
                for name, split in (("train", manifest.train), ("valid", manifest.valid))
            ),
            *self.splits,
            f"left out: {made.left_out()}",
            *(f"  {problem}" for problem in self.problems),
            *(self._of_text() if self.text_bytes is not None else ()),
        ]
        if self.encode_seconds and self.text_bytes is not None:
            rate = self.text_bytes / 1e6 / self.encode_seconds
            lines.append(
                f"tokenizer ready in {self.tokenizer_seconds:.1f} s, "
                f"encoded in {self.encode_seconds:.1f} s ({rate:.1f} MB/s)"
            )
        if not manifest.valid.tokens:
            of_ids = "no validation part: token ids have one by --valid-files alone"
            of_text = "no validation part: give --valid-files, or a larger --valid such as 0.5"
            lines.append(of_ids if self.text_bytes is None else of_text)
        return [lines[0], *(f"  {line}" for line in lines[1:])]

    def _of_text(self) -> list[str]:
        made = self.manifest.made
        return [
            f"repeated: {counted(made.repeated, 'document')}; of the validation part "
            f"{counted(made.leaked, 'document')} also in the training part",
            f"lost by the tokenizer: {made.lost} of {made.compared} characters compared"
            f"{self.lost}, {made.unknown} unknown tokens",
            f"special tokens spelled in the text: {made.spelled}, kept as ordinary text"
            f"{self.spelled}",
        ]


def prepare(
    sources: PathOrPaths,
    out: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] = "train:8192",
    separator: str | None = None,
    valid: float | None = None,
    valid_files: PathOrPaths = (),
    field: str = "text",
    stdin_format: str = "txt",
    seed: int = 0,
    on_bad: str = "stop",
    overwrite: bool = False,
    workers: int | None = None,
    in_place: bool = False,
    part: str | None = None,
    quiet: bool = False,
    disk: Disk | None = None,
) -> Summary:
    """Turn text into a token store at `out`, with bounded memory, on `workers` threads (all cores).

    `sources` and `valid_files` are files, folders, globs or "-", one or several; without
    `valid_files` a share `valid` of the text is for validation (0.01). `tokenizer` is "train:N", a
    tokenizer.json, a folder, "gpt2", "gpt2:FOLDER" or "bytes". `separator` names the token between
    documents; None takes the tokenizer's own. `field` is the text's name in JSON and tables;
    `on_bad` is "stop" or "skip".
    Sources may be files of token ids, which `tokenizer` made; `in_place` does not copy them. With
    `part` "i/n" only that share of the text is written, in a folder in `out`, for `join`.
    The store depends on the documents, `tokenizer`, `separator`, `valid` and `seed` alone. It
    appears under its name when it is complete; a failure before that leaves nothing there. Raises
    SettingError for wrong arguments, DataError for text or a tokenizer that cannot be used,
    StorageError where the disk fails.

    >>> summary = lengthen.prepare("books", "tokens", tokenizer="bytes", valid=0.1, quiet=True)
    >>> summary.tokens
    42002
    """
    options = PrepareOptions(
        sources=_texts("source", sources),
        valid_files=_texts("valid_files", valid_files),
        tokenizer=str(tokenizer),
        separator=separator,
        valid=0.0 if valid_files else valid,
        field=field,
        stdin_format=stdin_format,
        seed=seed,
        on_bad=on_bad,
        workers=cores() if workers is None else workers,
        in_place=in_place,
        part=parse_part(part),
    )
    if options.part:
        out = as_path("out", out) / part_name(*options.part)
    return _write(as_path("out", out).absolute(), options, overwrite, not quiet, disk or Disk())


def _texts(name: str, value: PathOrPaths) -> tuple[str, ...]:
    """Return one path or several as they were given; raises SettingError for what is none."""
    several = value if isinstance(value, list | tuple) else [value]
    for one in several:
        as_path(name, one)
    return tuple(map(str, several))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _write(
    out: Path, options: PrepareOptions, overwrite: bool, progress: bool, disk: Disk
) -> Summary:
    """Write the store beside its place, and give it its name at the end."""
    check_output_folder(out, overwrite)
    disk = disk.at("prepare")
    temporary, is_first = temporary_beside(out), not out.parent.exists()
    try:
        disk.make_directory(temporary)
        summary = _fill(temporary, out, options, disk, progress)
        check_output_folder(out, overwrite)  # hours later, perhaps
        disk.replace_directory(temporary, out)
    except BaseException:
        # A disk that fails may fail here too, and the first error is the one to report.
        with contextlib.suppress(StorageError, OSError):
            disk.remove(temporary)
            if is_first:
                out.parent.rmdir()  # unless there is another part by now
        raise
    return summary


def _fill(folder: Path, out: Path, options: PrepareOptions, disk: Disk, progress: bool) -> Summary:
    stdin = _spool_stdin(folder, options, disk)
    corpus = find_corpus(options, stdin)
    places = [one.path.resolve() for one in (*corpus.train, *corpus.valid) if options.in_place]
    if inside := [str(path) for path in places if out.resolve() in path.parents]:
        rule = f"holds the source {inside[0]!r}, which would be deleted with the earlier store"
        raise SettingError("out", rule, str(out), COPY)
    left_out, duplicates = LeftOut(options.on_bad), DuplicateCounter()
    round_trip = RoundTripCounts()
    began = time.monotonic()
    tokenizer = _tokenizer(corpus, progress)
    learned = time.monotonic()
    with bar.line(corpus.size, "prepare", shown=progress) as line:
        if corpus.of_ids:
            shards, dtype = _shards_of_ids(corpus, tokenizer, folder, disk, line)
        else:
            documents = duplicates.watch(corpus.documents(left_out))
            work = (documents, tokenizer, options.workers, round_trip, line)
            shards, dtype = _shards_of_text(folder, disk, *work), None
    encoded = time.monotonic()
    if stdin:  # the folder is about to become the store
        disk.remove(stdin.path)
    counts = round_trip.counts()
    if options.part:  # what is repeated, and whether there is enough, shows when all are joined
        duplicates.save(disk, folder / DOCUMENTS)
        made = _provenance(corpus, left_out, counts)
    else:
        made = _provenance(corpus, left_out, counts | duplicates.counts())
        check_amount(shards, made)
    manifest = write_manifest(disk, folder, tokenizer, shards, made, dtype)
    return Summary(
        path=out,
        manifest=manifest,
        problems=tuple(left_out.problems),
        splits=corpus.describe_splits(),
        lost=list_most_common(round_trip.lost),
        spelled=list_most_common(round_trip.spelled),
        tokenizer_seconds=learned - began,
        encode_seconds=encoded - learned,
    )


def _shards_of_ids(
    corpus: Corpus, tokenizer: TextTokenizer, folder: Path, disk: Disk, line: bar.Line
) -> tuple[dict[str, list[Shard]], str | None]:
    """Return the shards of token files, and the type of their ids where it is theirs."""
    reader = IdReader.of(corpus, vocabulary_size(tokenizer.tokenizer), tokenizer.separator, line)
    parts = zip(PARTS, (corpus.train, corpus.valid), strict=True)
    if corpus.options.in_place:
        dtype = reader.dtype_in_place()
        return {part: reader.use_in_place(sources) for part, sources in parts}, dtype
    return {part: reader.copy(of, disk, folder / f"{part}.bin") for part, of in parts}, None


def _shards_of_text(
    folder: Path,
    disk: Disk,
    documents: Parts,
    tokenizer: TextTokenizer,
    workers: int,
    round_trip: RoundTripCounts,
    line: bar.Line,
) -> dict[str, list[Shard]]:
    vocabulary = vocabulary_size(tokenizer.tokenizer)
    with contextlib.ExitStack() as stack:
        writers: dict[str, SplitWriter] = {}
        for part in PARTS:
            writer = SplitWriter(disk, folder / f"{part}.bin", vocabulary)
            writers[part] = stack.enter_context(contextlib.closing(writer))
        _encode(documents, tokenizer, workers, writers, round_trip, line)
        return {part: [writer.finish()] for part, writer in writers.items()}


def _encode(
    documents: Parts,
    tokenizer: TextTokenizer,
    workers: int,
    writers: Mapping[str, SplitWriter],
    round_trip: RoundTripCounts,
    line: bar.Line,
) -> None:
    pieces = cut_documents(documents, cuts=can_be_cut(tokenizer.tokenizer))
    tokens = text_bytes = 0
    began = time.monotonic()
    batches = encode(tokenizer.tokenizer, tokenizer.separator, pieces, workers)
    # Closed, not left to the collector: threads that still encode must end before the files do.
    with contextlib.closing(batches):
        for batch in batches:
            writers[batch.split].add(batch.ids, batch.documents, batch.text_bytes)
            round_trip.add(batch.round_trip)
            tokens += len(batch.ids)
            text_bytes += batch.text_bytes
            rate = text_bytes / 1e6 / (time.monotonic() - began)
            line.update(batch.bytes_read, f"{tokens} tokens, {rate:.1f} MB/s of text")


def _provenance(corpus: Corpus, left_out: LeftOut, counts: dict[str, int]) -> Provenance:
    options = corpus.options
    return Provenance(
        sources=_base_names(options.sources),
        valid_sources=_base_names(options.valid_files or [one.name for one in corpus.valid]),
        files=len(corpus.train) + len(corpus.valid),
        ignored=corpus.ignored,
        tokenizer=_base_names([options.tokenizer])[0],
        valid=corpus.valid_share,
        seed=options.seed,
        field=options.field,
        empty=left_out.empty,
        skipped=left_out.skipped,
        held_out=len(corpus.unused),
        **counts,
    )


def _base_names(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return names without the folders of this machine, and in Unicode whatever they are."""
    names = [Path(argument).name or argument for argument in arguments[:NAMED]]
    return tuple(os.fsencode(name).decode("utf-8", "replace") for name in names)


def _tokenizer(corpus: Corpus, progress: bool) -> TextTokenizer:
    spec, separator = corpus.options.tokenizer, corpus.options.separator
    if (corpus.of_ids or corpus.options.part) and spec.startswith("train:"):
        rule = "must be the one that made the ids" if corpus.of_ids else "must be that of all parts"
        hint = "give a tokenizer.json, a folder, gpt2 or bytes"
        raise SettingError("tokenizer", rule, spec, hint)
    if not needs_sample(spec, separator):
        return resolve(spec, separator=separator)
    say = bar.note if progress else lambda _: None
    say(f"reading a sample for {spec}")
    sample = corpus.sample()
    say(f"learning {spec} from {sum(map(len, sample)) / 1e6:.1f} million characters")
    with library_threads(True):
        return resolve(spec, sample, separator)


def _spool_stdin(folder: Path, options: PrepareOptions, disk: Disk) -> Source | None:
    """Copy standard input to the disk, since it is read more than once."""
    if "-" not in (*options.sources, *options.valid_files):
        return None
    kind: Kind = "jsonl" if options.stdin_format == "jsonl" else "txt"
    path = folder / f"stdin.{kind}"
    stream = sys.stdin.buffer
    written = disk.write_file(path, iter(lambda: stream.read(BLOCK), b""))
    return Source(path, kind, written.size, "standard input", is_stdin=True)

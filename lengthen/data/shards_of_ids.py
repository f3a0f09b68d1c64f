"""From sources of token ids to shards: copied into the store, or used where they lie."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lengthen.data.corpus import Corpus
from lengthen.data.sources import Source
from lengthen.data.store import head_of
from lengthen.data.store_manifest import Shard
from lengthen.data.store_writer import ChunkHashes, SplitWriter
from lengthen.data.token_files import Block, IdFile, locate, read_blocks, refuse
from lengthen.util.console import Line
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError

COPY = "leave out --in-place, and it is copied"


@dataclass(frozen=True)
class IdReader:
    """The sources of ids of one `prepare`, each looked at before any is read whole."""

    files: dict[Source, IdFile | None]  # None: a column of a table
    vocabulary: int
    separator: int
    field: str
    line: Line

    @classmethod
    def of(cls, corpus: Corpus, vocabulary: int, separator: int, line: Line) -> "IdReader":
        """Look at every header and index; raises DataError for one that is wrong."""
        sources = (*corpus.train, *corpus.valid)
        files = {
            one: locate(one, vocabulary) if one.kind in ("bin", "ds") else None for one in sources
        }
        return cls(files, vocabulary, separator, corpus.options.field, line)

    def copy(self, sources: Sequence[Source], disk: Disk, path: Path) -> list[Shard]:
        """Write the ids of some sources to one file; a document without a separator gets one."""
        writer = SplitWriter(disk, path, self.vocabulary)
        with contextlib.closing(writer):
            for source in sources:
                for block in self._blocks(source):
                    ids = np.insert(block.ids, block.unmarked, np.uint32(self.separator))
                    writer.add(ids, block.documents)
            return [writer.finish().model_copy(update={"text_bytes": None})]

    def dtype_in_place(self) -> str:
        """Return the type of id of all files; raises DataError where a store cannot have it."""
        for source, file in self.files.items():
            path = str(source.path.resolve())
            if path.encode(errors="ignore").decode() != path:
                refuse(source, f"has a path that is no UTF-8, which no manifest names; {COPY}")
            kind = np.dtype(file.dtype) if file else None
            if kind is None or kind.kind == "f" or kind.itemsize not in (2, 4):
                has = f"has ids of type {kind}" if kind else "is a table"
                refuse(source, f"{has}, which no store maps; {COPY}")
        widths = {np.dtype(file.dtype).itemsize: one for one, file in self.files.items() if file}
        if len(widths) > 1:
            names = " and ".join(f"{one.name} {width}" for width, one in widths.items())
            raise DataError(f"corpus: ids are of two widths in bytes, {names}; {COPY}")
        return f"uint{8 * next(iter(widths))}"

    def use_in_place(self, sources: Sequence[Source]) -> list[Shard]:
        """Hash and check files; raises DataError where a document lacks its separator."""
        return [self._shard(source, file) for source in sources if (file := self.files[source])]

    def _shard(self, source: Source, file: IdFile) -> Shard:
        whole, hashes, tokens, documents = hashlib.sha256(), ChunkHashes(), 0, 0
        for block in self._blocks(source):
            if len(block.unmarked):
                at = tokens + int(block.unmarked[0])
                refuse(source, f"the document that ends at token {at} lacks the separator; {COPY}")
            whole.update(block.data)
            hashes.update(block.data)
            tokens, documents = tokens + len(block.ids), documents + block.documents
        return Shard(
            file=str(source.path.resolve()),
            size=hashes.size,
            sha256=whole.hexdigest(),
            chunks=hashes.hexdigests(),
            tokens=tokens,
            documents=documents,
            text_bytes=None,
            offset=file.offset,
            head=head_of(source.path),
        )

    def _blocks(self, source: Source) -> Iterator[Block]:
        order = list(self.files)
        read = sum(one.size for one in order[: order.index(source)])
        known = self.field, self.vocabulary, self.separator
        for block in read_blocks(source, self.files[source], *known):
            yield block
            read += len(block.data)
            self.line.update(read, source.name)

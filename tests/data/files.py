"""Makes the files that tests of `data` read, and reads them."""

import gzip
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lengthen.data.prepare import prepare
from lengthen.data.readers import LeftOut, read_documents
from lengthen.data.sources import find_sources
from lengthen.data.store_manifest import manifest_bytes

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SHARED = Path(__file__).parents[2] / "../shared/data"
GPT2 = SHARED / "gpt2-bpe"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the project's shared data")


def packed(data: bytes, suffix: str) -> bytes:
    """Return `data` as a file with that suffix holds it."""
    if suffix.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    return zstd.compress(data) if suffix.endswith(".zst") else data


def as_lines(documents: Sequence[object], field: str = "text") -> bytes:
    """Return jsonl with one document a line."""
    return "".join(json.dumps({field: text}) + "\n" for text in documents).encode()


def write(path: Path, data: bytes | str) -> Path:
    """Write a file, packed as its name says, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(data if isinstance(data, bytes) else data.encode(), path.name))
    return path


def read(path: Path, field: str = "text") -> tuple[list[str], LeftOut]:
    """Return the documents of a source that have text, and what was left out."""
    left_out = LeftOut("skip")
    texts, text = [], ""
    for part in read_documents(find_sources([str(path)])[0], field, left_out):
        if not part.text:
            left_out.add_empty()
            continue
        text += part.text
        if part.is_last:
            texts.append(text)
            text = ""
    return [*texts, text] if text else texts, left_out


def read_whole(path: Path, field: str = "text") -> list[str]:
    """Return the documents of a source in which nothing is wrong."""
    texts, left_out = read(path, field)
    assert left_out.problems == []
    return texts


def sharded(folder: Path, tokens: NDArray[np.int64], shards: int) -> None:
    """Write a store of byte tokens whose training part is that many files, named by number."""
    text = write(folder.parent / "one.txt", "a line\n" * 9)
    prepare([text], folder, tokenizer="bytes", valid=0, quiet=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    entries = []
    for number, part in enumerate(np.array_split(tokens.astype("<u2"), shards)):
        data = part.tobytes()
        (folder / f"{number}.bin").write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        sizes = {"size": len(data), "tokens": len(part), "documents": 0, "text_bytes": None}
        entries.append({"file": f"{number}.bin", "sha256": sha256, "chunks": [sha256], **sizes})
    content = {name: manifest[name] for name in manifest if name not in ("id", "format")}
    (folder / "manifest.json").write_bytes(manifest_bytes(content | {"train": entries}))
    (folder / "train.bin").unlink()

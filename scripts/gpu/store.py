"""Prepare the token store that travels to a machine with a GPU, of texts or the Python library.

python -m scripts.gpu.store DIR TOKENIZER [TEXT ...]
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from lengthen.data.prepare import prepare
from lengthen.experiments.demo import library_files
from scripts.gpu.install import ROOT
from scripts.gpu.parts import Call

STORE = ROOT / ".gpu" / "store"
TEXT_BYTES = 16_000_000  # some 4 million tokens of the Python library; fewer where it has less
REHEARSED = 300_000  # bytes of text


def library(path: Path, limit: int = TEXT_BYTES) -> Path:
    """Write the Python library's files as documents of JSON lines; return `path`."""
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for text in library_files():
            total += len(text.encode())
            if total > limit:
                break
            file.write(json.dumps({"text": text}) + "\n")
    return path


def main(out: str, tokenizer: str, *texts: str, limit: int = TEXT_BYTES) -> None:
    """Prepare the store in `out`; without texts, of so many bytes of the Python library."""
    with TemporaryDirectory() as folder:
        sources = list(texts) or [str(library(Path(folder) / "library.jsonl", limit))]
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        prepare(sources, Path(out), tokenizer=tokenizer, valid=0.05, overwrite=True)


def store_of(call: Call) -> Path:
    """Return the store that was brought along; in its absence one of the Python library's bytes."""
    if not call.rehearse and STORE.is_dir():
        return STORE
    made = call.folder / "store"
    if not STORE.is_dir():
        print("no store was brought along: bytes of the Python library instead")
    main(str(made), "bytes", limit=REHEARSED if call.rehearse else TEXT_BYTES)
    return made


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Prepare the demo's token store, of the Python library, in the directory named: no training."""

import sys
from pathlib import Path

from lengthen.experiments.demo import library_text, prepare_store

if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    prepare_store(library_text(out / "library.jsonl"), out / "store", overwrite=True)

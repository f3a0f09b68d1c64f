"""Write the text of the studies at length 4,096: the long Python files of ten pinned packages.

    python -m scripts.python_text python.jsonl
    lengthen prepare python.jsonl --valid 0.03 --tokenizer train:4096 --out store

Files of 32 KiB to 400 kB, so that a sequence of 4,096 tokens lies within one file. pip downloads
the packages' wheels to a temporary directory; the text is checked by its hash.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

PACKAGES = (
    "sympy==1.14.0",
    "pandas==3.1.1",
    "scipy==1.17.1",
    "scikit-learn==1.9.1",
    "numpy==2.4.6",
    "matplotlib==3.11.2",
    "networkx==3.6.1",
    "mpmath==1.3.0",
    "nltk==3.10.4",
    "Pygments==2.21.0",
)
SMALLEST, LARGEST = 32_768, 400_000  # bytes of a file
SHA256 = "65337232d4074b84d6f2052f48bada9bdeb19e9f7c1cc2154b13a08201863bd4"


def download(package: str, folder: Path) -> Path:
    """Download a package's wheel; return its path."""
    words = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, package], check=True)
    (wheel,) = folder.iterdir()
    return wheel


def long_files(wheel: Path) -> Iterator[tuple[str, str]]:
    """Yield path and text of the long Python files of a wheel, by path."""
    with ZipFile(wheel) as archive:
        for file in sorted(archive.infolist(), key=lambda file: file.filename):
            if file.filename.endswith(".py") and SMALLEST <= file.file_size <= LARGEST:
                yield file.filename, archive.read(file).decode()


def text_of(packages: Sequence[str]) -> bytes:
    """Return the JSON lines of all packages' long files."""
    lines = []
    for package in packages:
        with tempfile.TemporaryDirectory() as folder:
            for path, text in long_files(download(package, Path(folder))):
                lines.append(json.dumps({"path": path, "text": text}) + "\n")
    return "".join(lines).encode()


def main(words: Sequence[str] | None = None) -> int:
    """Write the text; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the long Python files of ten packages.")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    out = parser.parse_args(words).out
    text = text_of(PACKAGES)
    digest = hashlib.sha256(text).hexdigest()
    if digest != SHA256:
        print(f"the text has SHA-256 {digest}, not {SHA256}", file=sys.stderr)
        return 1
    out.write_bytes(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

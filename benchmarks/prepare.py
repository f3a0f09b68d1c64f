"""Encoding speed and memory of `prepare`, against the tokenizer library's own calls.

    python -m benchmarks.prepare                       60 MB of the novels, else the demo's text
    python -m benchmarks.prepare --whole               all of them
    python -m benchmarks.prepare text.jsonl --whole    another source of any format

First `prepare` runs once with `train:8192` in a process of its own, for its peak memory and the
seconds that the tokenizer takes. Then all encode the same documents with that tokenizer on the
same cores, by turns: ours in pieces, with separators, to arrays of ids; the library's own
`encode_batch`, and `encode_batch_fast`, which keeps no offsets and is what ours calls, on 16 whole
documents a call, their ids left in their own objects.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import ratio, report, seconds_in_rounds
from benchmarks.step import text
from lengthen.data.encode import can_be_cut, cut_documents, encode, library_threads
from lengthen.data.prepare import cores
from lengthen.data.readers import DocumentPart, LeftOut, read_documents
from lengthen.data.sources import find_sources
from lengthen.data.store import Store
from lengthen.data.tokenizer_files import TextTokenizer

NOVELS = Path(__file__).parents[1] / "../shared/data/novels/train.jsonl.zst"
DOCUMENTS = 16  # in one call of the library
# Not the resource usage that `getrusage` gives: a new process inherits its parent's peak there.
MEASURED = """
import json, re, sys
from pathlib import Path
from lengthen.data.prepare import prepare
summary = prepare([sys.argv[1]], sys.argv[2], tokenizer="train:8192")
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
print(json.dumps([peak, summary.tokenizer_seconds, summary.encode_seconds, summary.text_bytes]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", nargs="?", help="text of any format")
    parser.add_argument("--whole", action="store_true", help="all of it")
    parser.add_argument("--megabytes", type=float, default=60, help="of text, otherwise (60)")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison (3); 0 for none")
    parser.add_argument("--workers", type=int, default=cores(), help="threads of ours (all cores)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = options.source or (str(NOVELS) if NOVELS.exists() else text(Path(folder)))
        texts = list(documents(source, 0 if options.whole else options.megabytes * 1e6))
        source = source if options.whole else str(as_lines(Path(folder), texts))
        tokenizer = measure_prepare(source, Path(folder) / "store")
    if options.rounds:
        compare(tokenizer, texts, options.workers, options.rounds)


def documents(source: str, limit: float) -> Iterator[str]:
    """Yield whole documents, at most `limit` bytes or so of them; all, if it is 0."""
    document, size = "", 0
    for part in read_documents(find_sources([source])[0], "text", LeftOut("skip")):
        document += part.text
        size += len(part.text)
        if part.is_last:
            yield document
            document = ""
            if limit and size >= limit:
                return


def as_lines(folder: Path, texts: list[str]) -> Path:
    path = folder / "slice.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def measure_prepare(source: str, out: Path) -> TextTokenizer:
    command = [sys.executable, "-c", MEASURED, source, str(out)]
    peak, learned, encoded, size = json.loads(subprocess.check_output(command))
    print(f"prepare of {size / 1e6:.0f} MB of text with train:8192, in a process of its own")
    report("PREPARE_TOKENIZER_SECONDS", learned)
    report("PREPARE_ENCODE_SECONDS", encoded)
    report("PREPARE_PEAK_MB", peak)
    return Store.open(out).text_tokenizer()


def compare(text_tokenizer: TextTokenizer, texts: list[str], workers: int, rounds: int) -> None:
    tokenizer = text_tokenizer.tokenizer

    def ours() -> int:
        whole = (DocumentPart(text, True, 0) for text in texts)
        pieces = cut_documents(whole, cuts=can_be_cut(tokenizer))
        batches = encode(tokenizer, text_tokenizer.separator, pieces, workers)
        return sum(len(batch.ids) for batch in batches)

    def theirs(name: str) -> int:
        with library_threads(workers > 1):
            return sum(
                len(encoding)
                for at in range(0, len(texts), DOCUMENTS)
                for encoding in getattr(tokenizer, name)(texts[at : at + DOCUMENTS])
            )

    calls = {name: partial(theirs, name) for name in ("encode_batch", "encode_batch_fast")}
    assert all(ours() == call() + len(texts) for call in calls.values())
    seconds = seconds_in_rounds({"ours": ours, **calls}, rounds)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"encoding {megabytes:.0f} MB in {len(texts)} documents on {workers} cores")
    report("PREPARE_MB_PER_S", megabytes / min(seconds["ours"]))
    for name in calls:
        report(f"{name.upper()}_MB_PER_S", megabytes / min(seconds[name]))
        found = ratio(seconds[name], seconds["ours"])
        print(f"ours / {name}: {found}")
        report(f"PREPARE_VS_{name.upper()}", found)


if __name__ == "__main__":
    main()

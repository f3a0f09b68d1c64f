"""The first two minutes: one text, three variants at one budget, a table and a report.

baseline       full length from the first step on
SLW            short sequences first (the method)
rows warmup    full length, few rows first: as many tokens as SLW at every step, so that what is
               left between the two is the length, and the more texts that short rows read

Whatever comes out is shown as it is.
"""

import json
import platform
import shlex
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lengthen.data.prepare import prepare
from lengthen.data.store import Store
from lengthen.experiments.compare.file import comparison_of
from lengthen.experiments.compare.outcomes import Outcome, groups, read_outcome
from lengthen.experiments.compare.tables import results
from lengthen.reporting.gather import gather
from lengthen.reporting.html import write
from lengthen.reporting.panels import panels_of
from lengthen.reporting.text import lines, times
from lengthen.training.start import train
from lengthen.util.errors import SettingError, StoppedError
from lengthen.util.overwrite import check_directory
from lengthen.util.tables import Table, show

TEXT_BYTES = 2_500_000
LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "lib2to3", "__pycache__"}
VOCABULARY = 2048
SHORT = 600_000  # tokens of a text that ends before, or soon after, the length is full
# Everything that a demo writes into its directory.
OWN = {"library.jsonl", "store", "baseline", "SLW", "rows-warmup", "picture.svg", "report.html"}

COLUMNS = (
    "variant",
    "updates",
    "validation loss",
    "largest ratio, steps",
    "largest ratio, probe",
    "tokens: times fewer",
)
PICTURED = ("Validation perplexity by token", "Loss ratio of the steps", "Length")

SETTINGS: dict[str, Any] = {
    "variants": {
        "baseline": {"pacing": {"kind": "constant"}},
        "SLW": {},
        "rows warmup": {"same_tokens_as": "SLW"},
    },
    "seeds": [0],
    "model": {"layers": 4, "width": 64, "heads": 4, "length": 256},
    "pacing": {"kind": "linear", "start": 8, "duration": 100},
    "batch": {"rows": 32},
    "optimizer": {
        "learning_rate": 3e-3,
        "min_learning_rate": 3e-4,
        "warmup_steps": 20,
        "betas": [0.9, 0.999],
        "weight_decay": 0.0,
    },
    "evaluation": {"every_tokens": 50_000, "tokens": 40_000},
    "saving": {"every_steps": 0, "keep": 1},
}


def demo(out: Path, *, text: Path | None = None, overwrite: bool = False) -> None:
    """Prepare a text, train the three variants in `out`, print the table and write the report.

    Raises SettingError where `out` holds something else, and for a text too short for a step.
    """
    if text is not None and not text.is_file():
        raise SettingError("--text", "must be a file", str(text))
    begun = not (out / "report.html").exists()  # of one that was stopped, the rest is trained
    check_directory(out, "demo", _is_a_demos, overwrite=overwrite or begun)
    out.mkdir(parents=True, exist_ok=True)
    source = text if text is not None else library_text(out / "library.jsonl")
    what = str(text) if text is not None else f"the library of Python {platform.python_version()}"
    show([f"1. text    {what}, {source.stat().st_size:,} bytes"])
    prepare_store(source, out / "store", overwrite=True)
    show([f"2. store   {out / 'store'}"])
    store, length = Store.open(out / "store"), SETTINGS["model"]["length"]
    epoch = (len(store.train) - 1) // length * length
    if epoch < (least := SETTINGS["batch"]["rows"] * length):
        raise SettingError("--text", f"must have at least {least} tokens, one step", epoch)
    data = {"data": {"path": str(store.path.resolve())}, "budget": {"tokens": epoch}}
    pacing = SETTINGS["pacing"] | ({"duration": "50%"} if epoch < SHORT else {})
    comparison = comparison_of({**SETTINGS, "pacing": pacing}, "demo", data)
    directories = [out / run.variant.replace(" ", "-") for run in comparison.runs]
    for run, directory in zip(comparison.runs, directories, strict=True):
        show([f"3. train   {run.variant}"])
        try:
            train(run.config, directory, overwrite=overwrite, resume=None if overwrite else "auto")
        except StoppedError as error:
            rule = f"stopped in {directory}, which is saved; the same command continues"
            if overwrite:
                rule = f"stopped in {directory}; with --overwrite the same command begins anew"
            raise StoppedError(error.signal, rule) from None
    ends = map(read_outcome, comparison.runs, directories)
    outcomes = [outcome for outcome in ends if outcome is not None]
    table, sentences = results(groups(comparison, outcomes), comparison.baseline), _parts(outcomes)
    runs = gather(directories)
    tables = [part for part in lines(runs) if isinstance(part, Table)]
    tables.insert(1, table)
    write(out / "report.html", runs, title="lengthen demo", verdicts=sentences, tables=tables)
    pictured = [panel for panel in panels_of(runs) if panel.title in PICTURED]
    from lengthen.reporting.figures import draw  # matplotlib, which no other command waits for

    (out / "picture.svg").write_bytes(draw(pictured, ".svg"))
    report = f"Report:  {(out / 'report.html').resolve()}"
    prompt = " --prompt 'def '" if text is None else ""
    following = f"Next:    lengthen sample {shlex.quote(str(out / 'SLW'))}{prompt}"
    show([*filter(None, (_narrow(table), times(runs))), *sentences, report, following])


def _is_a_demos(names: set[str]) -> bool:
    # A demo that was killed leaves temporary files, which begin with a dot.
    return all(name in OWN or name.startswith(".tmp-") for name in names)


def prepare_store(source: Path, out: Path, *, overwrite: bool) -> None:
    """Prepare the demo's token store of a text."""
    tokenizer = f"train:{VOCABULARY}"
    prepare([str(source)], out, tokenizer=tokenizer, valid=0.03, overwrite=overwrite, quiet=True)


def library_text(path: Path) -> Path:
    """Write the first bytes of the Python library, a document for each file; return `path`."""
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for text in library_files():
            file.write(json.dumps({"text": text}) + "\n")
            total += len(text.encode())
            if total >= TEXT_BYTES:
                break
    return path


def library_files() -> Iterator[str]:
    """Yield the text of each file of the Python library, in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            yield path.read_text(encoding="utf-8", errors="ignore")


def _narrow(table: Table) -> Table:
    """Return the columns that one seed has figures for: all of them are in the report."""
    kept = [table.columns.index(column) for column in COLUMNS]
    rows = tuple(tuple(row[number] for number in kept) for row in table.rows)
    return Table("One text, one budget", COLUMNS, rows)


def _parts(outcomes: Sequence[Outcome]) -> list[str]:
    """Say what SLW has changed, and which part of it fewer tokens per step alone have changed."""
    baseline, slw, rows = (outcome.loss for outcome in outcomes)
    seed = "One seed: an illustration, not a result."
    if baseline is None or slw is None or rows is None:
        return ["A variant ended not finite, so their losses cannot be compared.", seed]
    return [
        f"SLW ends {_apart(slw - baseline)} the baseline.",
        f"Fewer tokens per step alone (rows warmup) end {_apart(rows - baseline)} the baseline: "
        "the part of the token batch.",
        f"SLW ends {_apart(slw - rows)} the rows warmup, which has its tokens at every step: the "
        "part of the length, and of the more texts that short rows read.",
        seed,
    ]


def _apart(nats: float) -> str:
    return f"{abs(nats):.3f} nats {'below' if nats < 0 else 'above'}"

"""The first two minutes: one text, three variants at one budget, a table and a report.

baseline       full length from the first step on
SLW            short sequences first (the method)
rows warmup    full length, few rows first: as many tokens as SLW at every step, so that what is
               left between the two is the length itself

Whatever comes out is shown as it is.
"""

import json
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lengthen.analysis.instability import largest_ratio
from lengthen.analysis.summary import best_loss, first_at_or_below
from lengthen.config.load import build, merge
from lengthen.config.recipes import rows_with_the_same_tokens
from lengthen.core.loss_ratio import UNSTABLE
from lengthen.data.prepare import prepare
from lengthen.reporting.figures import Curve, Panel, draw
from lengthen.reporting.gather import gather
from lengthen.reporting.html import write
from lengthen.reporting.text import lines
from lengthen.run.directory import Metrics, Record, RunPaths, read_metrics
from lengthen.training.start import train
from lengthen.util.errors import DataError, SettingError
from lengthen.util.tables import Table, number, printed

TEXT_BYTES = 2_500_000
LEAST_BYTES = 1_000_000  # of the standard library; some slim images lack parts of it
LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "lib2to3", "__pycache__"}
VOCABULARY = 2048
# Everything that a demo writes into its directory.
OWN = {"library.jsonl", "store", "baseline", "SLW", "rows-warmup", "picture.svg", "report.html"}

SLW: dict[str, Any] = {
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
    "budget": {"epochs": 1},
    "evaluation": {"every_tokens": 50_000, "tokens": 40_000},
    "saving": {"every_steps": 0, "keep": 1},
}


@dataclass(frozen=True)
class Variant:
    """One way to train, and what became of it."""

    name: str
    metrics: Metrics

    @property
    def evaluations(self) -> list[Record]:
        """Every evaluation, in order."""
        return self.metrics.of("eval")

    @property
    def steps(self) -> list[Record]:
        """Every step, in order."""
        return self.metrics.of("step")


def demo(out: Path, *, text: Path | None = None, overwrite: bool = False) -> None:
    """Prepare a text, train the three variants in `out`, print the table and write the report.

    Raises SettingError where `out` holds something else, DataError for a text that is too short.
    """
    console = Console()
    if text is not None and not text.is_file():
        raise SettingError("--text", "must be a file", str(text))
    _check_out(out, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    source = text if text is not None else library_text(out / "library.jsonl")
    what = str(text) if text is not None else f"the library of Python {platform.python_version()}"
    console.print(f"1. text    {what}, {source.stat().st_size:,} bytes")
    prepare_store(source, out / "store", overwrite=overwrite)
    console.print(f"2. store   {out / 'store'}")
    variants = []
    tables = merge(SLW, {"data": {"path": str((out / "store").resolve())}})[0]
    for name, settings in _variants(tables).items():
        console.print(f"3. train   {name}")
        run = out / _directory(name)
        train(build(settings), run, overwrite=overwrite)
        variants.append(Variant(name, read_metrics(RunPaths(run).metrics)))
    (out / "picture.svg").write_text(draw(_panels(variants)), encoding="utf-8")
    table, verdicts = _table(variants), _verdicts(variants)
    _report(out, variants, table, verdicts)
    console.print(printed(table))
    for sentence in verdicts:
        console.print(sentence, highlight=False)
    console.print(f"Report:  {(out / 'report.html').resolve()}", soft_wrap=True)
    console.print(f"Next:    lengthen sample {out / 'SLW'} --prompt 'def '", soft_wrap=True)


def _check_out(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise SettingError("--out", "must be a directory", str(out))
    there = {entry.name for entry in out.iterdir()} if out.exists() else set()
    if there and not overwrite:
        hint = "--overwrite replaces an earlier demo"
        raise SettingError("--out", "must be a new or empty directory", str(out), hint)
    # A demo that was killed leaves temporary files, which begin with a dot.
    if strangers := {name for name in there - OWN if not name.startswith(".tmp-")}:
        rule = f"holds {sorted(strangers)[0]}, which no demo wrote, so it stays"
        raise SettingError("--out", rule, str(out))


def _variants(tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        "baseline": merge(tables, {"pacing": {"kind": "constant"}})[0],
        "SLW": tables,
        "rows warmup": rows_with_the_same_tokens(tables),
    }


def prepare_store(source: Path, out: Path, *, overwrite: bool) -> None:
    """Prepare the demo's token store of a text."""
    tokenizer = f"train:{VOCABULARY}"
    prepare(
        [str(source)], out, tokenizer=tokenizer, valid=0.03, overwrite=overwrite, progress=False
    )


def library_text(path: Path) -> Path:
    """Write the first bytes of the Python library, a document for each file; return `path`."""
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for text in library_files():
            file.write(json.dumps({"text": text}) + "\n")
            total += len(text.encode())
            if total >= TEXT_BYTES:
                break
    if total < LEAST_BYTES:
        few = f"the library of this Python has {total:,} bytes, the demo needs {LEAST_BYTES:,}"
        raise DataError(f"{few}; give a text of your own with --text FILE")
    return path


def library_files() -> Iterator[str]:
    """Yield the text of each file of the Python library, in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            yield path.read_text(encoding="utf-8", errors="ignore")


def _report(out: Path, variants: list[Variant], table: Table, verdicts: list[str]) -> None:
    runs = gather([out / _directory(variant.name) for variant in variants])
    tables = [table, *(part for part in lines(runs) if isinstance(part, Table))]
    write(out / "report.html", runs, title="lengthen demo", verdicts=verdicts, tables=tables)


def _directory(name: str) -> str:
    return name.replace(" ", "-")


def _verdicts(variants: list[Variant]) -> list[str]:
    """Say what SLW has changed, and which part of it fewer tokens per step alone have changed."""
    baseline, slw, rows = (v.evaluations[-1]["loss"] for v in variants)
    seed = "One seed: an illustration, not a result."
    if None in (baseline, slw, rows):
        return ["A variant ended not finite, so their losses cannot be compared.", seed]
    return [
        f"SLW ends {_apart(slw - baseline)} the baseline.",
        f"Fewer tokens per step alone (rows warmup) end {_apart(rows - baseline)} the baseline: "
        "the part of the token batch.",
        f"SLW ends {_apart(slw - rows)} the rows warmup, which has its tokens at every step: the "
        "part of the length.",
        seed,
    ]


def _apart(nats: float) -> str:
    return f"{abs(nats):.3f} nats {'below' if nats < 0 else 'above'}"


def _table(variants: list[Variant]) -> Table:
    goal = best_loss(variants[0].evaluations)
    return Table(
        "One text, one budget",
        (
            "variant",
            "updates",
            "validation loss",
            "tokens to goal",
            "seconds to goal",
            "largest ratio, steps",
            "largest ratio, probe",
        ),
        tuple(_row(variant, goal) for variant in variants),
        "" if goal is None else f"Goal: the baseline's best validation loss, {goal:.3f} nats.",
    )


def _row(variant: Variant, goal: float | None) -> tuple[str, ...]:
    reached = None if goal is None else first_at_or_below(variant.evaluations, goal)
    return (
        variant.name,
        f"{len(variant.steps):,}",
        _loss(variant.evaluations[-1]["loss"]),
        "not reached" if reached is None else f"{reached['tokens']:,}",
        "not reached" if reached is None else f"{reached['seconds']:.1f}",
        number(largest_ratio(variant.steps), 2),
        number(largest_ratio(variant.metrics.of("probe")), 2),
    )


def _loss(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.3f}"


def _panels(variants: list[Variant]) -> list[Panel]:
    def curves(kind: str, value: str) -> list[Curve]:
        return [
            Curve(
                variant.name,
                [
                    (record["tokens"], record[value])
                    for record in variant.metrics.of(kind)
                    if record[value] is not None
                ],
            )
            for variant in variants
        ]

    tokens = "trained tokens"
    return [
        Panel("Validation loss at full length", tokens, "nats per token", curves("eval", "loss")),
        Panel(
            "Loss ratio: above the line a step is unstable",
            tokens,
            "loss / lowest so far",
            curves("step", "loss_ratio"),
            mark=UNSTABLE,
        ),
        Panel("Sequence length", tokens, "tokens", curves("step", "length")),
    ]

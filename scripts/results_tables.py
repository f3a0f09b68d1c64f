"""Fill the tables of published comparisons into the pages on results, between their marks.

    python -m scripts.results_tables

A block begins with `<!-- results: studies/NAME.json -->` and ends with `<!-- end -->`. Instead of
`results` it may ask for the `verdicts` or the `causes` of one file, or, `repeated`, for the
estimates of the same pairs in three: FIRST.json SECOND.json BOTH.json. `judged` and `pilot` take a
packed study, NAME.tar.xz; the tables of scripts.study_figures, such as `saving`, and those of
scripts.study_map, `map` and `sensitivity`, take what those take. A column of `results` or `causes`
that says the same in every row is left out; the JSON files have everything. A word behind the file
of `results` chooses the rows that have it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lengthen.evaluation.tables import tables
from lengthen.reporting.gather import gather
from lengthen.util.tables import Table
from scripts.pilot_table import pilot_table
from scripts.study_figures import TABLES
from scripts.study_map import Map, map_table, read_map, sensitivity_table
from scripts.study_runs import Study, read_studies

ROOT = Path(__file__).parents[1]
PAGES = ("docs/results.md", "docs/results-appendix.md")
MAPS: Mapping[str, Callable[[Map], Table]] = {"map": map_table, "sensitivity": sensitivity_table}
KINDS = ("results", "verdicts", "causes", "repeated", "judged", "pilot", *TABLES, *MAPS)
BLOCK = re.compile(rf"<!-- ({'|'.join(KINDS)}): (\S+(?: \S+)*) -->.*?<!-- end -->", re.DOTALL)
NOT_SHOWN = ("stable seeds", "largest ratio, probe")
OURS = ("lambada perplexity", "wikitext103", "valid (limit 1000) loss")


def results(facts: dict[str, Any], of: str = "") -> Iterator[str]:
    """Yield the lines of the table of results, of variants and cells whose names have `of`."""
    yield from _table(facts, "Results at the end of", of)


def verdicts(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of verdicts, and each as a sentence."""
    yield from _whole(Table(**_called(facts, "Verdicts")))
    yield from (f"- {sentence}" for sentence in facts["verdicts"])
    yield ""


def causes(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables of the second moment and the gradient."""
    yield from _table(facts, "The largest values of a run")
    yield from _table(facts, "What goes with the loss ratio", of="baseline")


def _called(facts: dict[str, Any], title: str) -> dict[str, Any]:
    tables: list[dict[str, Any]] = facts["tables"]
    return next(table for table in tables if table["title"].startswith(title))


def _table(facts: dict[str, Any], title: str, of: str = "") -> Iterator[str]:
    table = _called(facts, title)
    columns, rows = table["columns"], [row for row in table["rows"] if of in row[0]]
    kept = [
        n
        for n, name in enumerate(columns)
        if name not in NOT_SHOWN and len({row[n] for row in rows}) > 1
    ]
    yield f"**{table['title']}** (`{facts['name']}.toml`)\n"
    yield _row([columns[n] for n in kept])
    yield "|" + "---|" * len(kept)
    for row in rows:
        yield _row([row[n] for n in kept])
    yield ""


def repeated(first: dict[str, Any], second: dict[str, Any], both: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of each pair's difference in one set of seeds, another, and both.

    Only what has the same sign in the two sets, and an interval over both that leaves out zero,
    may be claimed.
    """
    files = (first, second, both)
    estimates = [_estimates(facts) for facts in files]
    names = [f"`{facts['name']}`" for facts in files]
    yield _row(["pair", *names, "same sign", "leaves out 0", "may be claimed"])
    yield "|" + "---|" * 7
    for pair in estimates[2]:
        told = [of_pair[pair] for of_pair in estimates]
        same = told[0][0] * told[1][0] > 0
        apart = told[2][1] * told[2][2] > 0
        cells = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in told]
        words = ["yes" if holds else "no" for holds in (same, apart, same and apart)]
        yield _row([pair, *cells, *words])
    yield ""


def _estimates(facts: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Return for each pair its difference and the interval's ends."""
    table = _called(facts, "Verdicts")
    at = {name: table["columns"].index(name) for name in ("pair", "difference", "95 % interval")}
    found = {}
    for row in table["rows"]:
        low, high = row[at["95 % interval"]].split(" to ")
        found[row[at["pair"]]] = float(row[at["difference"]]), float(low), float(high)
    return found


def judged(study: Path) -> Iterator[str]:
    """Yield the lines of the table of what the tasks of ours say about runs."""
    variants = {run.name.split("/")[1]: run.results for run in gather([study])}
    table, *_ = tables(variants)
    yield _row(table.columns)
    yield "|" + "---|" * len(table.columns)
    yield from (_row(row) for row in table.rows if row[0].startswith(OURS))
    yield ""


def _whole(table: Table) -> Iterator[str]:
    """Yield the lines of a table with its note."""
    yield f"**{table.title}**\n"
    yield _row(table.columns)
    yield "|" + "---|" * len(table.columns)
    yield from map(_row, table.rows)
    yield f"\n{table.note}\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


BLOCKS: dict[str, Callable[..., Iterator[str]]] = {
    "results": results,
    "verdicts": verdicts,
    "causes": causes,
    "repeated": repeated,
}


def filled(page: str, root: Path) -> str:
    """Return the page with every block's tables as the files that it names have them."""

    @cache
    def study_of(*files: Path) -> Study:
        return read_studies(files)

    @cache
    def map_of(*files: Path) -> Map:
        return read_map(files)

    def block(match: re.Match[str]) -> str:
        kind, names = match[1], match[2].split()
        if kind == "judged":
            lines = judged(root / names[0])
        elif kind == "pilot":
            lines = _whole(pilot_table(root / names[0]))
        elif kind in TABLES:
            lines = _whole(TABLES[kind](study_of(*(root / name for name in names))))
        elif kind in MAPS:
            lines = _whole(MAPS[kind](map_of(*(root / name for name in names))))
        else:
            lines = BLOCKS[kind](*(_read(root, name) for name in names))
        return f"<!-- {kind}: {match[2]} -->\n" + "\n".join(lines) + "\n<!-- end -->"

    return BLOCK.sub(block, page)


def _read(root: Path, name: str) -> Any:
    """Return the content of a file of results, and any other word as it is."""
    return json.loads((root / name).read_text("utf-8")) if name.endswith(".json") else name


if __name__ == "__main__":
    for page in (ROOT / name for name in PAGES):
        page.write_text(filled(page.read_text(encoding="utf-8"), ROOT), encoding="utf-8")

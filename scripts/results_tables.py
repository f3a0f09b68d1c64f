"""Fill the tables of published comparisons into docs/results.md, between their marks.

    python scripts/results_tables.py

A block begins with `<!-- tables: studies/DIR/NAME.json -->` and ends with `<!-- end -->`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- tables: (\S+) -->.*?<!-- end -->", re.DOTALL)
COLUMNS = {  # of each table, what the page on results shows
    "Results at the end of an equal budget": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "Verdicts": (0, 1, 2, 3, 4, 6),
    "Instability": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
}


def markdown(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of every table that the page shows."""
    for table in facts["tables"]:
        title = table["title"]
        if title not in COLUMNS and not title.startswith("Along "):
            continue
        kept = COLUMNS.get(title, range(len(table["columns"])))
        yield f"**{title}** (`{facts['name']}.toml`)\n"
        yield _row([table["columns"][n] for n in kept])
        yield "|" + "---|" * len(kept)
        for row in table["rows"]:
            yield _row([row[n] for n in kept])
        yield ""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def filled(page: str, root: Path) -> str:
    """Return the page with every block's tables as the file that it names has them."""

    def block(match: re.Match[str]) -> str:
        facts = json.loads((root / match[1]).read_text(encoding="utf-8"))
        return f"<!-- tables: {match[1]} -->\n" + "\n".join(markdown(facts)) + "\n<!-- end -->"

    return BLOCK.sub(block, page)


if __name__ == "__main__":
    page = ROOT / "docs" / "results.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), ROOT), encoding="utf-8")

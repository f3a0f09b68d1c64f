"""Write docs/settings.md from where the settings are declared: python -m scripts.settings_page."""

from pathlib import Path

from lengthen.config.reference import Setting, tables

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """\
# Settings

Every setting of a [recipe](training.md#recipes), a TOML file, `--table.setting VALUE` on the
command line and `settings=` in Python. `lengthen settings TABLE` prints the same. How they are
merged is on [the page on training](training.md#train).

- A *required* setting must come from a recipe, a file or the command line.
- A *count* is a whole number from 1 to 10^15; it may have K, M, B or T behind it, in steps of 1000.
  A *number* is finite and not negative, a *share* a number from 0 to below 1.
- `pacing.kind` must be given and decides which pacing settings there are;
  [concepts](concepts.md#pacing) has what each kind does.

This page is made by `scripts/settings_page.py` from `lengthen/config/schema.py` and
`lengthen/core/pacing.py`.
"""
COLUMNS = "| setting | type | default | unit | meaning |\n|---|---|---|---|---|"


def page() -> str:
    """Return the page as it should be."""
    parts = (
        f"## `{name}`\n\n{' '.join(meaning.split())}\n\n{COLUMNS}\n" + "".join(map(_row, settings))
        for name, (meaning, settings) in tables().items()
    )
    return "\n".join([HEAD, *parts])


def _row(one: Setting) -> str:
    return f"| `{one.name}` | {one.type} | {one.default} | {one.unit} | {one.meaning} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Write docs/settings.md from where the settings are declared: python -m scripts.settings_page."""

from pathlib import Path

from lengthen.config.reference import Setting, tables

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """\
# Settings

Every setting of a [recipe](training.md#recipes), a TOML file, `--table.setting VALUE` on the
command line and `settings=` in Python. [Training](training.md#train) says how they are merged.
`lengthen settings TABLE` prints the same.

- A *required* setting must come from a recipe, a file or the command line.
- A *count* is a whole number from 1 to 10^15, of a pacing to 2^40; it may have K, M, B or T after
  it, in powers of 1000. A *number* is finite and not negative, a *share* is from 0 to below 1.
- `pacing.kind` must be given and decides which pacing settings there are;
  [concepts](concepts.md#pacing) describes each kind.

`python -m scripts.settings_page` makes this page.
"""
COLUMNS = "| setting | type | default | meaning |\n|---|---|---|---|"


def page() -> str:
    """Return the page as it should be; what several kinds of pacing share stands at the first."""
    parts = [HEAD]
    told: list[Setting] = []
    for name, (meaning, settings) in tables().items():
        again = [f"`{one.name}`" for one in settings if one in told]
        also = f" Also {', '.join(again)}, as above." if again else ""
        rows = "".join(_row(one) for one in settings if one not in told)
        table = f"\n{COLUMNS}\n{rows}" if rows else ""
        parts.append(f"## `{name}`\n\n{' '.join(meaning.split())}{also}\n{table}")
        told += settings
    return "\n".join(parts)


def _row(one: Setting) -> str:
    of = f", {one.unit}" if one.unit else ""
    return f"| `{one.name}` | {one.type}{of} | {one.default} | {one.meaning} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""What `lengthen report` writes: a page, or every figure; or one line says why not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lengthen.cli.main import main
from lengthen.reporting.report import report
from tests.reporting.drawn import texts
from tests.reporting.logs import records

WRITTEN = [
    "validation-perplexity-by-token",
    "loss-ratio-of-the-steps",
    "validation-perplexity-by-step",
    "validation-perplexity-by-second",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants with two seeds each."""
    root = tmp_path_factory.mktemp("study")
    for place in ("slw/seed-0", "slw/seed-1", "full/seed-0", "full/seed-1"):
        folder, seed = root / place, place[-1]
        folder.mkdir(parents=True)
        lines = (json.dumps(line) + "\n" for line in records(30))
        (folder / "metrics.jsonl").write_text("".join(lines))
        settings = f'[pacing]\nkind = "{place}"\n'.replace(f"/seed-{seed}", "")
        (folder / "config.toml").write_text(f"{settings}[run]\nseed = {seed}\n")
    return root


def test_seeds_of_one_folder_are_one_family(runs: Path) -> None:
    table = next(part for part in report(runs).lines if not isinstance(part, str))
    assert [row[0] for row in table.rows] == ["full", "slw"]


def test_losses_may_be_an_array_of_numpy(runs: Path) -> None:
    asked: Any = np.array([5.5, 4.9])
    assert str(report(runs, losses=asked)) == str(report(runs, losses=(5.5, 4.9)))


def test_every_figure_is_written_as_svg_and_png_in_the_colours_of_the_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs), "--figures", str(tmp_path / "new/figures")]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'new/figures'}\n")
    files = sorted((tmp_path / "new/figures").iterdir())
    stems = [path.stem for path in files[::2]]
    assert [f"{at:02}-{words}" for at, words in enumerate(WRITTEN, 1)] == stems[:4]
    for png, svg in zip(files[::2], files[1::2], strict=True):
        assert png.read_bytes().startswith(b"\x89PNG")
        assert {"full", "slw"} <= set(texts(svg.read_bytes()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "fig.pdf"], "--out: must end in .html, got 'fig.pdf'; --figures DIR"),
        (["--out", "fig.svg"], "--out: must end in .html, got 'fig.svg'; --figures DIR"),
        (["--figures", __file__], "--figures: must be a directory"),
    ],
)
def test_what_nobody_draws_is_one_line(
    runs: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs), *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err

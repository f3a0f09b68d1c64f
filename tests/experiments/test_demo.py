"""The demo: three variants of one small model, shown by what a comparison and a report have."""

from pathlib import Path

import pytest

from lengthen.experiments import demo as whole
from lengthen.experiments.demo import SETTINGS, demo
from lengthen.run.metrics import read_metrics
from lengthen.util.errors import SettingError

TINY = {
    **SETTINGS,
    "model": {"layers": 1, "width": 16, "heads": 2, "length": 64},
    "pacing": {"kind": "linear", "start": 8, "duration": 1000},
    "batch": {"rows": 8},
    "evaluation": {"every_tokens": 2000, "tokens": 512},
}


def test_it_ends_with_a_table_a_page_and_what_the_length_alone_has_changed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whole, "SETTINGS", TINY)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    demo(out, text=tmp_path / "text.txt")
    output = capsys.readouterr().out
    for shown in (
        "One text, one budget",
        "rows warmup",
        "part of the length, and of the more texts",
        "One seed:",
    ):
        assert shown in " ".join(output.split())
    # Of a short text, too, the warmup comes to its end, and the sample begins with no code.
    length = TINY["model"]["length"]
    assert read_metrics(out / "SLW").steps[-1].length == length
    assert output.splitlines()[-1] == f"Next:    lengthen sample {out / 'SLW'}"
    assert {path.name for path in out.iterdir()} == whole.OWN - {"library.jsonl"}
    assert "First evaluation at or below a validation loss" in (out / "report.html").read_text()
    with pytest.raises(SettingError, match="--overwrite replaces the earlier demo"):
        demo(out, text=tmp_path / "text.txt")
    (out / "mine.txt").write_text("mine")
    with pytest.raises(SettingError, match="holds other things and is no demo"):
        demo(out, text=tmp_path / "text.txt", overwrite=True)


def test_a_text_too_short_for_a_step_is_refused_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Two words.", encoding="utf-8")
    with pytest.raises(SettingError, match="--text: must have at least 8192 tokens, one step"):
        demo(tmp_path / "out", text=tmp_path / "text.txt")

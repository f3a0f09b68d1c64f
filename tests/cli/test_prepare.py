"""The options of `lengthen prepare` in words."""

from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.cli.prepare import share


def test_a_share_is_a_fraction_or_in_per_cent() -> None:
    assert share("0.05") == share("5%") == 0.05


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("5%%", "argument --valid: invalid share value: '5%%'"),
        ("a lot", "argument --valid: invalid share value: 'a lot'"),
        ("100%", "--valid: must be from 0 to below 1, got 1.0"),
    ],
)
def test_another_share_is_refused_in_one_line(
    given: str, rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("Some text.", encoding="utf-8")
    words = [str(tmp_path / "a.txt"), "--valid", given, "--out", str(tmp_path / "store")]
    assert main(["prepare", *words]) == 2
    assert capsys.readouterr().err.strip().endswith(rule)

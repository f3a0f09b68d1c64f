"""attempts.jsonl, as everyone reads it."""

import json
from pathlib import Path

import pytest

from lengthen.run.attempts import ATTEMPTS, read_attempts, trained_alone


def test_lines_that_are_cut_or_of_no_run_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ATTEMPTS).write_text('{"run": "a", "jobs": 1}\n[]\n{"run": 3}\n{"run": "b"')
    assert list(read_attempts(tmp_path)) == [("a", {"run": "a", "jobs": 1})]
    assert list(read_attempts(tmp_path / "none")) == []


@pytest.mark.parametrize(("jobs", "alone"), [((1, 1), True), ((1, 2), False), ((), True)])
def test_a_run_was_alone_where_nothing_around_it_ran_side_by_side(
    tmp_path: Path, jobs: tuple[int, ...], alone: bool
) -> None:
    lines = [{"run": "slw/seed-0", "event": "started", "jobs": count} for count in jobs]
    (tmp_path / ATTEMPTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert trained_alone(tmp_path / "runs/slw") is alone

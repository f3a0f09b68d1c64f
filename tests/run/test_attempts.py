"""attempts.jsonl, as everyone reads it."""

import json
from pathlib import Path

import pytest

from lengthen.run.attempts import ATTEMPTS, ran_side_by_side, read_attempts


def test_lines_that_are_cut_or_of_no_run_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ATTEMPTS).write_text('{"run": "a", "jobs": 1}\n[]\n{"run": 3}\n{"run": "b"')
    assert list(read_attempts(tmp_path)) == [("a", {"run": "a", "jobs": 1})]
    assert list(read_attempts(tmp_path / "none")) == []


@pytest.mark.parametrize(("jobs", "beside"), [((1, 1), False), ((1, 2), True), ((), False)])
def test_runs_were_side_by_side_where_an_attempt_had_several_jobs(
    tmp_path: Path, jobs: tuple[int, ...], beside: bool
) -> None:
    lines = [{"run": "slw/seed-0", "event": "started", "jobs": count} for count in jobs]
    (tmp_path / ATTEMPTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ran_side_by_side(tmp_path) is beside

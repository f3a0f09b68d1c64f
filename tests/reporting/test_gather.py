"""Paths become runs under short names of their own, or one line says why not."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.reporting.gather import gather
from lengthen.util.errors import DataError, LengthenError, SettingError, shown
from tests.logs import Line, record

STEP: Line = {"kind": "step", "step": 1, "loss": 5.0, "loss_ratio": None}
COLUMNS = {"step": "s", "loss": "l"}


def run(root: Path, records: Sequence[Line] = (STEP,), *, tail: str = "") -> Path:
    root.mkdir(parents=True)
    (root / "config.toml").write_text("[model]\nlayers = 2\n")
    (root / "environment.json").write_text('{"tokenizer": "a1"}')
    text = "".join(json.dumps(record) + "\n" for record in records)
    (root / "metrics.jsonl").write_text(text + tail)
    return root


def csv(path: Path) -> Path:
    path.write_text("s,l\n1,5.0\n")
    return path


def names(paths: Sequence[Path]) -> list[str]:
    return [named.name for named in gather(paths, COLUMNS)]


def test_a_run_brings_its_metrics_settings_and_environment(tmp_path: Path) -> None:
    (named,) = gather([run(tmp_path / "SLW")])
    assert named.name == "SLW"
    assert named.metrics.steps == [record(STEP)]
    assert named.config == {"model": {"layers": 2}}
    assert named.environment == {"tokenizer": "a1"}


def test_attempts_around_runs_say_whether_they_were_alone_and_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [run(tmp_path / name) for name in ("a/seed-0", "a/seed-1", "b/seed-0")]
    attempts, read, whole = tmp_path / "attempts.jsonl", [], Path.read_bytes
    attempts.write_text('{"run": "a/seed-0", "jobs": 2}\n')

    def counted(path: Path) -> bytes:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    assert [named.alone for named in gather([tmp_path])] == [False] * 3
    assert read.count(attempts) == 1
    attempts.unlink()
    assert [named.alone for named in gather(paths)] == [True] * 3


def test_a_run_is_what_has_a_log_even_without_settings(tmp_path: Path) -> None:
    path = run(tmp_path / "old")
    (path / "config.toml").unlink()
    (path / "environment.json").unlink()
    (named,) = gather([path])
    assert (named.config, named.environment) == ({}, {})


def test_runs_in_a_directory_are_named_relative_to_it_in_order(tmp_path: Path) -> None:
    for name in ("b/seed-1", "b/seed-0", "a/deep/er", ".trash-1/seed-0", "b/seed-0/checkpoints/x"):
        run(tmp_path / name) if not (tmp_path / name).exists() else None
    assert names([tmp_path]) == ["a/deep/er", "b/seed-0", "b/seed-1"]


def test_names_alike_take_more_of_their_path_and_others_stay_short(tmp_path: Path) -> None:
    paths = [run(tmp_path / name) for name in ("x/demo/SLW", "y/demo/SLW", "x/demo/baseline")]
    assert names(paths) == ["x/demo/SLW", "y/demo/SLW", "baseline"]


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    path = run(tmp_path / "c/SLW")
    (tmp_path / "link").symlink_to(path)
    assert names([path, tmp_path / "c", tmp_path / "link", path / ".." / "SLW"]) == ["SLW"]


@given(
    tree=st.sets(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), min_size=1),
    whole=st.booleans(),
)
def test_names_are_unique_whatever_the_tree(
    tmp_path_factory: pytest.TempPathFactory, tree: set[str], whole: bool
) -> None:
    root = tmp_path_factory.mktemp("tree")
    paths = [run(root / name / "r") for name in sorted(tree)]
    found = names([root] if whole else paths)
    assert len(set(found)) == len(found) == len(tree)


def test_f49_names_are_printable_whatever_the_directory_is_called(tmp_path: Path) -> None:
    odd = ("red\x1b[31m", "new\nline", "\u202egnp", "<script>alert(1)<script>")
    for name in odd:
        run(tmp_path / name)
    run(tmp_path / os.fsdecode(b"no-text-\xff"))
    found = names([tmp_path])
    assert all(name.isprintable() for name in found)
    assert "red\\x1b[31m" in found
    assert "<script>alert(1)<script>" in found


def test_logs_of_other_trainers_and_ours_go_together(tmp_path: Path) -> None:
    ours = run(tmp_path / "SLW")
    copy = tmp_path / "published.jsonl"
    copy.write_bytes((ours / "metrics.jsonl").read_bytes())
    found = gather([ours, copy, csv(tmp_path / "theirs.csv")], COLUMNS)
    assert [named.name for named in found] == ["SLW", "published.jsonl", "theirs.csv"]
    assert [len(named.metrics.steps) for named in found] == [1, 1, 1]


def test_f54_runs_without_steps_are_left_out_and_named(tmp_path: Path) -> None:
    run(tmp_path / "good")
    run(tmp_path / "new", [])
    (run(tmp_path / "starting", []) / "metrics.jsonl").unlink()
    run(tmp_path / "broken", [], tail="garbage\n" * 3)
    notes: list[str] = []
    assert [named.name for named in gather([tmp_path], note=notes.append)] == ["good"]
    assert notes == [
        "broken: a run without steps; unreadable lines of its log: 3; left out",
        "new: a run without steps; left out",
        "starting: a run without steps; left out",
    ]


def test_a_note_goes_to_standard_error_unless_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "good")
    run(tmp_path / "new", [])
    gather([tmp_path])
    assert capsys.readouterr().err == "lengthen: new: a run without steps; left out\n"


def refused(paths: Sequence[Path], columns: dict[str, str] | None = None) -> LengthenError:
    with pytest.raises(LengthenError) as caught:
        gather(paths, columns)
    return caught.value


def test_what_holds_no_run_is_one_line(tmp_path: Path) -> None:
    error = refused([tmp_path])
    assert isinstance(error, SettingError)
    rule = "holds no run at any depth; a run's directory has a metrics.jsonl"
    assert str(error) == f"RUN: {rule}, got {shown(str(tmp_path))}"
    missing = tmp_path / "missing"
    got = shown(str(missing))
    assert str(refused([missing])) == f"RUN: no such run, directory or log, got {got}"
    assert str(refused([])) == "no runs were named"


def test_f54_runs_of_which_none_has_a_step_are_one_line(tmp_path: Path) -> None:
    run(tmp_path / "a", [], tail="x\n")
    error = refused([tmp_path])
    assert isinstance(error, DataError)
    assert str(error) == "a: a run without steps; unreadable lines of its log: 1"
    run(tmp_path / "b", [])
    assert str(refused([tmp_path / "b"])) == "b: a run without steps"
    assert str(refused([tmp_path])).endswith("of its log: 1 (and 1 more)")


def test_another_trainers_log_needs_to_know_its_columns(tmp_path: Path) -> None:
    path = csv(tmp_path / "theirs.csv")
    error = refused([path])
    rule = "must say which columns another trainer's log has, as step=..., loss=..."
    assert str(error) == f"columns: {rule}; {path} is no metrics.jsonl"
    probes = {"step": "s", "probe_loss": "l"}
    assert str(refused([path], probes)) == "theirs.csv: a run without steps"
    evaluations = {"step": "s", "eval_loss": "l"}
    assert gather([path], evaluations)[0].metrics.evaluations


def test_our_own_log_without_a_step_yet_needs_no_columns(tmp_path: Path) -> None:
    path = run(tmp_path / "new", []) / "metrics.jsonl"
    assert str(refused([path])) == "metrics.jsonl: a run without steps"


@pytest.mark.parametrize("text", ["[1]", "{", "\x00", "[" * 5000, '{"a": "' + "x" * 2**20 + '"}'])
def test_a_broken_environment_is_one_line(tmp_path: Path, text: str) -> None:
    path = run(tmp_path / "r") / "environment.json"
    path.write_text(text)
    message = str(refused([tmp_path]))
    assert message.startswith(f"file {path}: must be ")
    assert "\n" not in message


def test_broken_settings_are_one_line(tmp_path: Path) -> None:
    path = run(tmp_path / "r") / "config.toml"
    path.write_text("[model\n")
    assert str(refused([tmp_path])).startswith(f"{path}: is not TOML")


def test_one_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    run(tmp_path / "a", [{"kind": "step", "step": 1, "loss": 5.0}])
    run(tmp_path / "b", [{"kind": "step", "step": 1, "loss": 5.0}])
    (tmp_path / "b" / "environment.json").write_text("{")
    notes: list[str] = []
    assert [found.name for found in gather([tmp_path], note=notes.append)] == ["a"]
    assert len(notes) == 1
    assert "environment.json" in notes[0]
    assert isinstance(refused([tmp_path / "b"]), DataError)

"""What a search leaves behind, from planted trials: nothing is trained here."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lengthen import cost, processes
from lengthen.cli import main
from lengthen.clock import steps
from lengthen.config import Config, Tables
from lengthen.errors import StorageError
from lengthen.processes import ATTEMPTS, Job, Machine
from lengthen.runlog import owned
from lengthen.settings import load
from lengthen.tune.question import Question
from lengthen.tune.search import Setting
from lengthen.tune.told import way_out
from lengthen.tune.trials import Trial, place_of, redone, trial_of
from tests.conftest import Configure
from tests.tune.conftest import Asked, own, plant, search_here, written

ROOM: Tables = {"budget": {"tokens": 400_000}}


def no_process(*_: object) -> Job:
    raise AssertionError("a trial was started")


@pytest.fixture
def tuned(
    tunable: Configure, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> "Tuned":
    """Plant the trials of a search and let the command read them, which starts none."""
    monkeypatch.setattr(processes, "start", no_process)
    return Tuned(tunable, asked, tmp_path)


class Tuned:
    """A search over planted trials."""

    def __init__(self, tunable: Configure, asked: Asked, folder: Path) -> None:
        self.tunable, self.asked, self.folder, self.root = tunable, asked, folder, folder / "out"

    def __call__(
        self, calm: Sequence[Setting], *words: str, code: int = 0, tables: Tables = ROOM
    ) -> list[Trial]:
        aggressive = "--aggressive" in words
        self.question: Question = self.asked(aggressive=aggressive, **tables)

        trials = search_here(self.question, self.root, self.planting(calm))
        if not (self.root / ATTEMPTS).exists():
            own(self.root)
        assert self.again(*words, tables=tables) == code
        return trials

    def planting(self, calm: Sequence[Setting]) -> Callable[[Trial], None]:
        """Give what plants a trial, unless it is there from an earlier search."""

        def carry(trial: Trial) -> None:
            if not place_of(self.root, trial).exists():
                is_calm = any(covers(one, trial.setting) for one in calm)
                plant(self.root, trial, calm=is_calm)

        return carry

    def again(self, *words: str, tables: Tables = ROOM) -> int:
        file = written(self.tunable(**tables), self.folder)
        base = ["tune", file, "--out", str(self.root), "--judge-tokens", "512", "--jobs", "1"]
        return main([*base, *words])

    @property
    def facts(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.root / "tune.json").read_text())
        return told

    @property
    def config(self) -> Config:
        return load(str(self.root / "tuned.toml"))[0]


def covers(largest: Setting, setting: Setting) -> bool:
    """Tell whether a setting is as calm as the largest calm one at its start."""
    one, other = ((s.multiple, s.rate, s.rows) for s in (setting, largest))
    return setting.start == largest.start and all(a <= b for a, b in zip(one, other, strict=True))


def test_the_choice_is_a_complete_configuration_that_says_how_it_was_found(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = tuned([Setting(16, 19)])
    assert tuned.config == tuned.question.training(Setting(16, 19))
    first = (tuned.root / "tuned.toml").read_text().splitlines()[0]
    assert first.startswith(
        "# lengthen tune: Start 16 and T = 76 steps (19 warm-ups): over its first 3 warm-ups the "
        "validation perplexity was never above 1 x the lowest so far. 5 trials, "
    )
    assert len(trials) == 5  # two starts, and three to find 19 between 4 and 64
    said = capsys.readouterr().out
    assert f"next    lengthen train {tuned.root / 'tuned.toml'} --out RUN" in said
    assert tuned.facts["chosen"] == {
        "start": 16,
        "duration": 76,
        "warmups": 19,
        "learning_rate": 0.01,
        "rows": 8,
    }


def test_the_table_has_every_trial_with_its_verdict_and_why(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = tuned([Setting(16, 4)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    refuted = ["start", "8,", "T", "16,", "beginning", "0.01", "8", "not", "calm", "2.75", "x"]
    assert [*refuted, "2", "128", "1.5"] in rows
    assert tuned.facts["trials"][0]["why"] == "2.75 x the lowest so far at step 2"
    assert [fact["verdict"] for fact in tuned.facts["trials"]] == [
        "not calm",
        "calm",
        *["not calm"] * 3,
        "calm",
    ]
    assert [fact["run"] for fact in tuned.facts["trials"]] == [trial.name for trial in trials]


def test_the_page_shows_every_curve_with_its_verdict(tuned: Tuned) -> None:
    tuned([Setting(8, 64)])
    page = (tuned.root / "tune.html").read_text()
    for said in (
        "Early validation perplexity of the trials",
        "start 8, T 16, beginning: calm",
        "start 8, T 256: calm",
        "Start 8 and T = 256 steps (64 warm-ups)",
        "are two standard errors for a spread of 0.40 nats, as measured on a small model.",
    ):
        assert said in page
    # One key for each trial, whatever the figure.
    assert page.count('class="key"') == len(tuned.facts["trials"])


def test_the_cost_is_what_the_trials_did_beside_the_whole_training(tuned: Tuned) -> None:
    trials = tuned([Setting(8, 64)])
    model = tuned.config.model
    shapes = [shape for trial in trials for _, shape in steps(trial.config.schedule())]
    looks = 8 + 3 * 12  # the opening has two warm-ups of 4 steps, the others three
    training = [shape for _, shape in steps(tuned.config.schedule())]
    judging = looks * cost.flops(model, 8, 64) / 3
    flops = sum(cost.flops(model, s.rows, s.length) for s in shapes) + judging
    whole = sum(cost.flops(model, s.rows, s.length) for s in training)
    told = tuned.facts
    assert told["cost"] == {
        "trials": 4,
        "tokens": sum(shape.tokens for shape in shapes),
        "validation_tokens": looks * 512,
        "flops": pytest.approx(flops),
        "seconds": looks * (0.5 + 0.25),
        "seconds_beside_computing": 0.0,
        "tokens_trained_twice": 0,
    }
    assert told["training"]["steps"] == len(training)
    assert told["training"]["tokens"] == sum(shape.tokens for shape in training)
    assert told["share"]["flops"] == pytest.approx(flops / whole)
    expected = told["cost"]["seconds"] / told["training"]["seconds"]
    assert told["share"]["seconds"] == pytest.approx(expected)


def test_the_seconds_of_the_whole_training_come_from_the_speed_at_each_length(
    tuned: Tuned,
) -> None:
    tuned([Setting(8, 64)])
    model, seen = tuned.config.model, {8, 16, 24, 32}  # at T = 16 and 8 steps
    expected = 0.0
    for _, shape in steps(tuned.config.schedule()):
        nearest = min(seen, key=lambda length: abs(length - shape.length))
        speed = cost.flops(model, 8, nearest) / 0.5
        expected += cost.flops(model, shape.rows, shape.length) / speed
    assert tuned.facts["training"]["seconds"] == pytest.approx(expected)


def test_what_is_known_is_not_redone_and_comes_to_the_same_choice(tuned: Tuned) -> None:
    trials = tuned([Setting(16, 29)])
    before, tables = tuned.config, tuned.facts
    logs = [place_of(tuned.root, trial) / "metrics.jsonl" for trial in trials]
    times = [log.stat().st_mtime_ns for log in logs]
    assert tuned.again() == 0
    own(tuned.root)  # a log that says nothing of them
    assert tuned.again() == 0
    assert (tuned.config, tuned.facts) == (before, tables)
    assert [log.stat().st_mtime_ns for log in logs] == times


def test_another_configuration_in_the_same_place_has_trials_of_its_own(tuned: Tuned) -> None:
    tuned([Setting(16, 29)])
    slower = {**ROOM, "optimizer": {"learning_rate": 5e-3, "warmup_steps": 4}}
    tuned([Setting(8, 64)], tables=slower)
    assert tuned.facts["chosen"]["start"] == 8
    assert len(tuned.facts["trials"]) == 4
    assert tuned.again() == 0
    assert tuned.facts["chosen"]["start"] == 16


def test_trials_of_a_search_with_other_starts_or_a_bolder_one_are_not_mixed_in(
    tuned: Tuned,
) -> None:
    trials = tuned([Setting(8, 64, rate=2), Setting(16, 64)], "--aggressive")
    other = tuned.asked(starts=(16,), **ROOM)
    search_here(other, tuned.root, tuned.planting([Setting(16, 64)]))
    assert tuned.again("--starts", "16") == 0
    assert {fact["start"] for fact in tuned.facts["trials"]} == {16}
    assert tuned.facts["cost"]["trials"] == 4
    assert tuned.again() == 0
    tried = {(fact["start"], fact["rate"], fact["rows"]) for fact in tuned.facts["trials"]}
    assert tried == {(8, 1, 1)}
    assert tuned.facts["cost"]["trials"] == 4
    assert tuned.again("--aggressive") == 0
    assert tuned.facts["chosen"]["learning_rate"] == 0.02
    assert len(tuned.facts["trials"]) == len(trials)


def test_where_nothing_was_not_calm_it_says_that_more_is_possible(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned([Setting(8, 64)])
    hint = "Every trial was calm, so a larger learning rate or batch may be possible: --aggressive"
    assert hint in capsys.readouterr().out
    assert tuned.facts["verdicts"][1].startswith(hint)


def test_where_only_a_slow_warmup_was_not_calm_more_is_possible_too(tuned: Tuned) -> None:
    tuned([Setting(8, 13)])
    hint = "The first start was calm at once, so a larger learning rate or batch may be possible:"
    assert tuned.facts["verdicts"][1].startswith(hint)


def test_where_a_start_was_not_calm_no_larger_rate_is_proposed(tuned: Tuned) -> None:
    tuned([Setting(16, 13)])
    assert "larger learning rate" not in " ".join(tuned.facts["verdicts"])


def test_where_no_start_is_calm_shorter_durations_are_tried_down_to_one_warm_up(
    tuned: Tuned,
) -> None:
    tuned([Setting(16, 1)])
    assert tuned.facts["chosen"]["warmups"] == 1
    tried = [(fact["start"], fact["multiple"]) for fact in tuned.facts["trials"]]
    assert tried == [(8, 4), (16, 4), (16, 2), (16, 1)]
    assert [fact["opening"] for fact in tuned.facts["trials"]] == [True, True, False, False]
    assert "larger learning rate" not in " ".join(tuned.facts["verdicts"])


def test_no_calm_trial_is_an_error_with_a_way_out_and_the_evidence_stays(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned([], code=6)
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1] == (
        "lengthen: no trial stayed calm for 3 warm-ups "
        "(start 8, T 16, beginning; start 16, T 16, beginning; start 16, T 8; start 16, T 4): "
        "lower optimizer.learning_rate (0.01) or batch.rows (8), raise optimizer.warmup_steps (4), "
        "or try longer starts with --starts 32"
    )
    assert tuned.facts["chosen"] is None
    assert (tuned.root / "tune.html").is_file()
    assert not (tuned.root / "tuned.toml").exists()


def test_a_start_that_was_calm_at_the_very_beginning_alone_is_said_and_is_no_evidence(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    question = tuned.asked(**ROOM)
    opening = Setting(8, 4, opening=True)
    search_here(question, tuned.root, lambda t: plant(tuned.root, t, calm=t.setting == opening))
    own(tuned.root)
    assert tuned.again() == 6
    expected = (
        "o trial stayed calm for 3 warm-ups (start 8, T 76; start 8, T 36; start 8, T 24; "
        "start 8, T 16; start 16, T 16, beginning; start 16, T 8; start 16, T 4); start 8 was calm "
        "for 2 alone: lower optimizer.learning_rate"
    )
    assert f"lengthen: n{expected}" in capsys.readouterr().err.splitlines()[-1]
    assert tuned.facts["verdicts"][0].startswith(f"N{expected}")
    assert html.escape(f"N{expected}") in (tuned.root / "tune.html").read_text()


def test_the_way_out_names_only_what_there_is_room_for(asked: Asked) -> None:
    question = asked(starts=(32,), batch={"rows": 1, "micro_tokens": 64})
    assert way_out(question) == (
        "lower optimizer.learning_rate (0.01), or raise optimizer.warmup_steps (4)"
    )


def test_a_file_that_another_search_tuned_goes_aside_and_is_not_lost(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned([Setting(8, 64)])
    before = tuned.config
    wilder = {**ROOM, "optimizer": {"learning_rate": 9.0, "warmup_steps": 4}}
    tuned([], code=6, tables=wilder)
    assert not (tuned.root / "tuned.toml").exists()
    assert load(str(tuned.root / "tuned.before.toml"))[0] == before
    assert "tuned.toml of an earlier search is now tuned.before.toml" in capsys.readouterr().out
    assert tuned.again() == 0  # and costs nothing to have again
    assert tuned.config == before
    assert tuned.again() == 0
    assert "an earlier search" not in capsys.readouterr().out  # the same one goes nowhere


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.toml", "holds config.toml, which no search wrote, so all of it stays, got"),
        ("thesis.tex", "holds thesis.tex, which no search wrote, so all of it stays, got"),
        ("trials", "holds trials, which no search wrote, so all of it stays, got"),
        ("tuned.toml", "holds a tuned.toml that no search wrote, got"),
        ("tuned.before.toml", "holds a tuned.before.toml that no search wrote, got"),
        ("tune.json", "holds a tune.json that no search wrote, got"),
        ("tune.html", "is there already and is no report, so it stays, got"),
    ],
)
def test_a_directory_with_what_no_search_wrote_is_refused_and_stays(
    tuned: Tuned, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    tuned.root.mkdir()
    (tuned.root / name).write_text("mine")
    assert tuned.again() == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"lengthen: --out: {message}")
    assert [path.name for path in tuned.root.iterdir()] == [name]
    assert (tuned.root / name).read_text() == "mine"


@pytest.mark.parametrize("log", [None, '{"run": "trial-1", "event": "started", "jobs": 1}\n'])
def test_another_tools_trials_are_refused_and_stay(
    tuned: Tuned, capsys: pytest.CaptureFixture[str], log: str | None
) -> None:
    theirs = tuned.root / "trials/trial-1.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    if log is not None:
        (tuned.root / ATTEMPTS).write_text(log)
    assert tuned.again() == 2
    assert "--out: holds trials, which no search wrote" in capsys.readouterr().err
    own(tuned.root)
    (tuned.root / "tune.json").write_text('{"trials": [], "tool": "another"}')
    assert tuned.again() == 2
    assert "--out: holds a tune.json that no search wrote" in capsys.readouterr().err
    assert theirs.read_text() == "{}"


def test_a_line_that_a_power_cut_tore_takes_no_other_with_it(tuned: Tuned) -> None:
    tuned([Setting(8, 64), Setting(16, 64)])
    other = tuned.asked(starts=(16,), **ROOM)
    search_here(other, tuned.root, tuned.planting([Setting(16, 64)]))
    with (tuned.root / ATTEMPTS).open("a") as file:
        file.write('{"run":"start-8-T-16-beginning","eve')
    assert tuned.again("--starts", "16") == 0
    assert [fact["start"] for fact in tuned.facts["trials"]] == [16] * 4


def test_what_lies_beside_the_trials_of_a_search_stays_and_hinders_nothing(tuned: Tuned) -> None:
    tuned([Setting(8, 64)])
    (tuned.root / "notes.txt").write_text("mine")
    assert tuned.again() == 0
    assert (tuned.root / "notes.txt").read_text() == "mine"


def test_an_out_that_is_a_file_is_refused(tuned: Tuned, capsys: pytest.CaptureFixture[str]) -> None:
    tuned.root.write_text("mine")
    assert tuned.again() == 2
    assert "--out: must be a directory, got" in capsys.readouterr().err


def test_aggressive_doubles_the_rate_then_the_rows_while_the_choice_stays_calm(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned([Setting(8, 29, rate=4, rows=2)], "--aggressive")
    assert tuned.config == tuned.question.training(Setting(8, 29, rate=4, rows=2))
    said = capsys.readouterr().out
    assert (
        "With it the largest learning rate that stayed calm is 0.04 (4 x what was given), and with "
        "that the most rows are 16 (2 x what was given)."
    ) in said
    assert "--aggressive: 4 x the rate, 2 x the rows." in (tuned.root / "tuned.toml").read_text()
    assert tuned.facts["chosen"]["learning_rate"] == 0.04
    tried = [(fact["rate"], fact["rows"]) for fact in tuned.facts["trials"]][-5:]
    assert tried == [(2, 1), (4, 1), (8, 1), (4, 2), (4, 4)]


def test_a_speculative_trial_that_contradicts_is_told_and_changes_nothing(tuned: Tuned) -> None:
    tuned([Setting(8, 9)])
    beyond = trial_of(tuned.question, Setting(8, 43))
    plant(tuned.root, beyond, calm=True)
    search = {"starts": [8, 16], "aggressive": False}
    setting = {"start": 8, "multiple": 43}
    record = {"run": beyond.name, "event": "ended", "setting": setting, "search": search}
    with (tuned.root / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(record) + '\n{"run": "cut off')
    assert tuned.again() == 0
    assert tuned.facts["chosen"]["warmups"] == 9
    assert tuned.facts["verdicts"][-1].startswith(
        "start 8, T 52 was not calm, and start 8, T 172 was: calmness is not monotone here"
    )


NO_ROOM = "The budget leaves no room for a longer T: "
ENDS_EARLY = "Even with this T the budget ends before full length is reached: raise the budget, or"


def test_a_duration_that_leaves_too_little_of_the_budget_is_not_tried_and_that_is_said(
    tuned: Tuned,
) -> None:
    tuned([Setting(8, 64)], tables={"budget": {"tokens": 20_000}})
    assert tuned.facts["chosen"]["warmups"] == 13
    assert tuned.facts["verdicts"][1] == (
        f"{NO_ROOM}at most 75 % of it may be trained before full length is reached, and with this "
        "T 66 % are."
    )
    assert ENDS_EARLY not in " ".join(tuned.facts["verdicts"])


def test_a_choice_below_the_longest_duration_says_nothing_of_the_budget(tuned: Tuned) -> None:
    tuned([Setting(8, 9)], tables={"budget": {"tokens": 20_000}})
    assert tuned.facts["chosen"]["warmups"] == 9
    assert NO_ROOM not in " ".join(tuned.facts["verdicts"])
    tuned([Setting(8, 64)])
    assert tuned.facts["chosen"]["warmups"] == 64
    assert NO_ROOM not in " ".join(tuned.facts["verdicts"])


def test_a_budget_that_ends_within_the_smallest_duration_is_said(tuned: Tuned) -> None:
    tuned([Setting(8, 64)], tables={"budget": {"tokens": 3_000}})
    assert tuned.facts["chosen"]["warmups"] == 4
    assert tuned.facts["verdicts"][1].startswith(NO_ROOM)
    assert tuned.facts["verdicts"][-1].startswith(ENDS_EARLY)


def test_rows_are_not_doubled_where_the_warmup_would_take_too_much_of_the_budget(
    tuned: Tuned,
) -> None:
    room: Tables = {"budget": {"tokens": 20_000}}
    tuned([Setting(8, 13, rows=8)], "--aggressive", tables=room)
    assert tuned.facts["chosen"]["rows"] == 8
    assert {fact["rows"] for fact in tuned.facts["trials"]} == {1}
    assert "the most rows are 8 (1 x what was given, no more is tried)." in " ".join(
        tuned.facts["verdicts"]
    )


def test_what_the_search_will_cost_is_said_before_its_first_trial_and_holds(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(*_: object) -> Job:
        raise StorageError("no room for a trial")

    monkeypatch.setattr(processes, "start", no_room)
    assert tuned.again() == StorageError.exit_code
    (told,) = capsys.readouterr().out.splitlines()
    pattern = (
        r"cost    from (\S+) to (\S+) % of one training's FLOP, evaluation included, with every "
        r"trial run to its end"
    )
    said = re.fullmatch(pattern, told)
    assert said is not None
    least, most = map(float, said.groups())
    tuned([Setting(8, 64)])
    assert least <= 100 * tuned.facts["share"]["flops"] <= most
    assert "cost    " not in capsys.readouterr().out  # nothing was left to do
    assert tuned.again("--aggressive") == StorageError.exit_code
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("cost    from ")


def test_trials_side_by_side_are_said_to_cost_more(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuned.again("--jobs", "2") == 1  # at its first trial, which must not start here
    (told,) = capsys.readouterr().out.splitlines()
    assert told.endswith("with every trial run to its end, and more with trials side by side")


def test_a_pacing_that_ends_below_full_length_is_not_said_to_lack_budget(tuned: Tuned) -> None:
    tuned([Setting(8, 4)], tables={**ROOM, "pacing": {"end": 48}})
    assert "the budget ends" not in " ".join(tuned.facts["verdicts"])


def test_trials_with_different_numbers_of_threads_are_told(tuned: Tuned) -> None:
    question = tuned.asked(**ROOM)
    threads = iter([1, 2, 2, 1])
    search_here(
        question, tuned.root, lambda t: plant(tuned.root, t, calm=True, threads=next(threads))
    )
    own(tuned.root)
    assert tuned.again() == 0
    assert tuned.facts["verdicts"][-1] == (
        "The trials had 1 and 2 threads: equal to rounding, not to the last digit."
    )


def test_what_a_kill_cost_and_what_processes_took_beside_computing_is_billed(tuned: Tuned) -> None:
    trials = tuned([Setting(8, 64)])
    before = tuned.facts["cost"]
    again = {"tokens": 640, "judged": 512, "flops": 1e6, "seconds": 4.0}
    lines: list[dict[str, object]] = [
        {"run": trials[0].name, "event": "started", "redone": {}},
        {"run": trials[0].name, "event": "started", "redone": again},
        {"run": trials[0].name, "event": "ended", "beside_seconds": 3.0},
        {"run": trials[1].name, "event": "started", "redone": again},
        {"run": trials[1].name, "event": "held"},  # by somebody else: nothing was redone
        {"run": "another", "event": "started", "redone": again},
    ]
    log = tuned.root / "attempts.jsonl"
    log.write_text("".join(json.dumps({**line, "search": {}}) + "\n" for line in lines))
    assert tuned.again() == 0
    assert tuned.facts["cost"] == {
        "trials": 4,
        "tokens": before["tokens"] + 640,
        "validation_tokens": before["validation_tokens"] + 512,
        "flops": pytest.approx(before["flops"] + 1e6),
        "seconds": before["seconds"] + 4.0 + 3.0,
        "seconds_beside_computing": 3.0,
        "tokens_trained_twice": 640,
    }
    cost_told = next(text for text in tuned.facts["verdicts"] if " trials cost " in text)
    assert cost_told.endswith(
        ", 3 of them to start, save and watch processes; 640 tokens were trained twice, behind a "
        "kill."
    )


@pytest.mark.parametrize(("saved", "tokens"), [(None, 2 * 64), (1, 64), (2, 0)])
def test_what_will_be_redone_is_all_behind_the_newest_checkpoint(
    tuned: Tuned, saved: int | None, tokens: int
) -> None:
    trial = trial_of(tuned.asked(**ROOM), Setting(8, 64))
    plant(tuned.root, trial, calm=False)  # two steps of 8 rows of 8, an evaluation behind each
    if saved is not None:
        (place_of(tuned.root, trial) / f"checkpoints/step-{saved:08}").mkdir(parents=True)
    again = redone(tuned.root, trial)
    assert again.tokens == tokens
    assert again.judged == 512 * (tokens // 64)
    assert again.seconds == 0.75 * (tokens // 64)


@pytest.mark.parametrize(
    ("code", "expected", "message"),
    [
        (2, 2, "lengthen: trial {name}: no such thing"),
        (3, 3, "lengthen: trial {name}: no such thing"),
        (7, 7, "lengthen: trial {name}: no such thing"),
        (8, 8, "lengthen: trial {name}: no such thing"),
        (143, 143, "lengthen: trial {name}: no such thing; the same command goes on"),
        (1, 1, "this is a bug"),
    ],
)
def test_a_trial_that_crashes_ends_the_search_with_its_own_error(
    tuned: Tuned,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    expected: int,
    message: str,
) -> None:
    def crash(place: Path, _config: Config, _machine: Machine, _others: object) -> Job:
        place.parent.mkdir(parents=True)
        log = place.with_name("log")
        words = f"import sys; print('lengthen: no such thing'); sys.exit({code})"
        with log.open("wb") as file:
            return Job(0, subprocess.Popen([sys.executable, "-c", words], stdout=file), log)

    monkeypatch.setattr(processes, "start", crash)
    assert tuned.again() == expected
    name = trial_of(tuned.asked(**ROOM), Setting(8, 4, opening=True)).name
    assert message.format(name=name) in capsys.readouterr().err.splitlines()[-1]
    assert not (tuned.root / "tuned.toml").exists()


def test_a_signal_ends_every_trial_and_says_how_to_go_on(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def endless(place: Path, _config: Config, _machine: Machine, _others: object) -> Job:
        place.parent.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        started.append(process)
        os.kill(os.getpid(), signal.SIGINT)
        return Job(0, process, place.with_name("log"))

    monkeypatch.setattr(processes, "start", endless)
    assert tuned.again() == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_two_at_once_in_one_directory_are_refused(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    with owned(tuned.root):
        assert tuned.again() == 5
    assert f"in use by pid {os.getpid()}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--jobs", "0"], 2, "--jobs: must be at least 1, got 0"),
        (["--threads", "0"], 2, "--threads: must be at least 1, got 0"),
        (["--judge-tokens", "0"], 2, "--judge-tokens: must be at least 1, got 0"),
        (["--judge-tokens", "1000000"], 3, "--judge-tokens 1000000 asks for more"),
        (["--starts", "64"], 2, "--starts: must be from 1 to below full length (64), got 64"),
        (["--starts", "x"], 2, "invalid int value: 'x'"),
        (["--start", "8"], 2, "did you mean '--starts'?"),
        (["--optimizer.warmup_steps", "0"], 2, "optimizer.warmup_steps: must be above 0"),
        (["--pacing.kind", "adaptive"], 2, "pacing.kind: must be linear, root or constant"),
        (["--budget.tokens", "1K"], 2, "budget.tokens: must be at least one trial"),
        (["--data", "nowhere"], 3, "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_left_behind(
    tuned: Tuned,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    assert tuned.again(*words) == code
    errors = capsys.readouterr().err.splitlines()
    assert message in errors[-1]
    assert all(line.startswith("lengthen: ") for line in errors)
    assert not tuned.root.exists()


def test_the_tuned_file_is_toml_whose_comment_is_one_line(tuned: Tuned) -> None:
    tuned([Setting(8, 64)])
    lines = (tuned.root / "tuned.toml").read_text().splitlines()
    assert [line.startswith("#") for line in lines].count(True) == 1
    assert tomllib.loads("\n".join(lines))["pacing"]["duration"] == 256

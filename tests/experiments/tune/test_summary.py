"""What is said of a search that is over: its choice, what it rests on, and what to change."""

import json
from collections.abc import Sequence
from math import inf

import pytest

from lengthen.config.schema import Tables
from lengthen.experiments.tune.search import Setting
from lengthen.experiments.tune.summary import perplexity, remedies
from lengthen.experiments.tune.trials import Trial, trial_of
from tests.experiments.tune.conftest import ROOM, Asked, Tuned, own, plant, search_here


def test_the_table_has_every_trial_with_its_verdict_and_why(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = tuned([Setting(16, 4)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    refuted = ["start", "8,", "T", "16,", "beginning", "0.01", "8", "not", "calm", "2.75", "x", "-"]
    assert [*refuted, "2", "128", "1.5"] in rows
    assert tuned.facts["trials"][0]["why"] == "2.75 x the lowest so far at step 2"
    assert [fact["verdict"] for fact in tuned.facts["trials"]] == [
        *["not calm"] * 2,
        "calm",
        *["not calm"] * 3,
        "calm",
    ]
    assert [fact["run"] for fact in tuned.facts["trials"]] == [trial.name for trial in trials]


def test_where_nothing_was_not_calm_it_says_that_more_is_possible(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned([Setting(8, 64)])
    hint = "Every trial was calm, so a larger learning rate or batch may be possible: --aggressive"
    assert hint in capsys.readouterr().out
    assert tuned.facts["verdicts"][2].startswith(hint)


def test_where_only_a_slow_warmup_was_not_calm_more_is_possible_too(tuned: Tuned) -> None:
    tuned([Setting(8, 13)])
    hint = "The first start was calm at once, so a larger learning rate or batch may be possible:"
    assert tuned.facts["verdicts"][2].startswith(hint)


def test_where_a_start_was_not_calm_no_larger_rate_is_proposed(tuned: Tuned) -> None:
    tuned([Setting(16, 13)])
    assert "larger learning rate" not in " ".join(tuned.facts["verdicts"])


def test_no_calm_trial_is_an_error_with_a_remedies_and_the_evidence_stays(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned([], code=6)
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1] == (
        "lengthen: no trial stayed calm for 3 warm-ups (start 8, T 256; start 8, T 16, beginning; "
        "start 16, T 16, beginning; start 16, T 8; start 16, T 4): "
        "lower optimizer.learning_rate (0.01) or batch.rows (8), raise optimizer.warmup_steps (4), "
        "or try longer starts with --starts 32"
    )
    assert tuned.facts["chosen"] is None
    assert (tuned.root / "tune.html").is_file()
    assert not (tuned.root / "tuned.toml").exists()


def test_the_remedies_names_only_what_there_is_room_for(asked: Asked) -> None:
    problem = asked(starts=(32,), batch={"rows": 1, "micro_tokens": 64})
    assert remedies(problem) == (
        "lower optimizer.learning_rate (0.01), or raise optimizer.warmup_steps (4)"
    )


def test_a_speculative_trial_that_contradicts_changes_nothing(tuned: Tuned) -> None:
    tuned([Setting(8, 9)])
    beyond = trial_of(tuned.problem, Setting(8, 43))
    plant(tuned.root, beyond, calm=True)
    search = {"starts": [8, 16], "aggressive": False}
    setting = {"start": 8, "multiple": 43}
    record = {"run": beyond.name, "event": "ended", "setting": setting, "search": search}
    with (tuned.root / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(record) + '\n{"run": "cut off')
    assert tuned.again() == 0
    assert tuned.facts["chosen"]["warmups"] == 9


NO_ROOM = "The budget leaves no room for a longer T: "


ENDS_EARLY = "Even with this T the budget ends before full length is reached: raise the budget, or"


def test_a_duration_that_leaves_too_little_of_the_budget_is_not_tried_and_that_is_said(
    tuned: Tuned,
) -> None:
    tuned([Setting(8, 64)], tables={"budget": {"tokens": 20_000}})
    assert tuned.facts["chosen"]["warmups"] == 13
    assert tuned.facts["verdicts"][2] == (
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
    assert tuned.facts["verdicts"][2].startswith(NO_ROOM)
    assert tuned.facts["verdicts"][-1].startswith(ENDS_EARLY)


def test_rows_are_not_doubled_where_the_warmup_would_take_too_much_of_the_budget(
    tuned: Tuned,
) -> None:
    room: Tables = {"budget": {"tokens": 20_000}}
    tuned([Setting(8, 13, rows=8)], "--aggressive", tables=room)
    assert tuned.facts["chosen"]["rows"] == 8
    assert {fact["rows"] for fact in tuned.facts["trials"]} == {1}
    assert "the most rows are 8 (1 x what was given, the budget has no room for more)." in " ".join(
        tuned.facts["verdicts"]
    )


def test_a_pacing_that_ends_below_full_length_is_not_said_to_lack_budget(tuned: Tuned) -> None:
    tuned([Setting(8, 4)], tables={**ROOM, "pacing": {"end": 48}})
    assert "the budget ends" not in " ".join(tuned.facts["verdicts"])


def test_trials_with_different_numbers_of_threads_are_told(tuned: Tuned) -> None:
    problem = tuned.asked(**ROOM)
    threads = iter([1, 2, 2, 1, 1])

    def carry(trial: Trial) -> None:
        calm = trial.setting.multiple < 64
        plant(tuned.root, trial, calm=calm, threads=next(threads))

    search_here(problem, tuned.root, carry)
    own(tuned.root)
    assert tuned.again() == 0
    assert tuned.facts["verdicts"][-1] == (
        "The trials had 1 and 2 threads: equal to rounding, not to the last digit."
    )


ENDED = "start {} {}, start {} {}. A longer start wins unless its own is more than 10 % higher."
TWO: Tables = {"budget": {"tokens": 500_000}}  # with room for a race of 8 and 32


def raced_here(tuned: Tuned, calm: Sequence[int], falls: float = 0.0) -> None:
    """Plant a search of 8 and 32, all calm but for races; those from `calm` are, too."""

    def carry(trial: Trial) -> None:
        start, race = trial.setting.start, trial.setting.raced
        plant(tuned.root, trial, calm=not race or start in calm, falls=falls * (start == 8))

    search_here(tuned.asked(starts=(8, 32), **TWO), tuned.root, carry)
    own(tuned.root)
    assert tuned.again("--starts", "8", "32", tables=TWO) == 0


@pytest.mark.parametrize(("falls", "start", "ended"), [(0.0, 32, "148.4"), (0.01, 8, "35.5")])
def test_a_race_is_told_with_its_perplexities_and_the_longer_start_wins_unless_it_is_worse(
    tuned: Tuned, capsys: pytest.CaptureFixture[str], falls: float, start: int, ended: str
) -> None:
    raced_here(tuned, (8, 32), falls)
    assert tuned.facts["chosen"]["start"] == start
    choice, race = tuned.facts["verdicts"][:2]
    assert choice.startswith(f"Start {start} and T = 256 steps (64 warm-ups): over its first 3 ")
    assert race == (
        "The perplexity after a race of 25,000 tokens, 5 % of the budget, with T = 256: "
        + ENDED.format(8, ended, 32, "148.4")
    )
    tried = [fact["raced"] for fact in tuned.facts["trials"]]
    assert tried == [False, True, True, *[False] * (start == 32)]
    assert tuned.facts["trials"][2]["loss"] == pytest.approx(5.0)
    row = next(x for x in capsys.readouterr().out.splitlines() if "start 32, T 256, race" in x)
    assert "148.4" in row.split()
    page = (tuned.root / "tune.html").read_text()
    assert "Validation perplexity in the race" in page
    assert "start 32, T 256, race: calm" in page


def test_a_choice_that_was_not_calm_in_its_race_is_no_reason_to_be_bolder(tuned: Tuned) -> None:
    raced_here(tuned, ())
    assert tuned.facts["chosen"]["start"] == 8
    _, race, warning, *others = tuned.facts["verdicts"]
    assert race.endswith(ENDED.format(8, "not calm", 32, "not calm"))
    assert warning.startswith(
        "Start 8 was calm for 3 warm-ups and not in its race: lower optimizer.learning_rate"
    )
    assert "larger learning rate" not in " ".join(others)


@pytest.mark.parametrize(
    ("starts", "tables", "why"),
    [
        ((8, 16), TWO, "no start that may be tried is 4 times as long"),
        ((8, 32), {"budget": {"tokens": 100_000}}, "the budget has no room for one"),
    ],
)
def test_where_there_was_no_race_it_says_why_and_that_longer_starts_were_not_compared(
    tuned: Tuned, starts: tuple[int, ...], tables: Tables, why: str
) -> None:
    problem = tuned.asked(starts=starts, **tables)
    search_here(problem, tuned.root, lambda trial: plant(tuned.root, trial, calm=True))
    own(tuned.root)
    assert tuned.again("--starts", *map(str, starts), tables=tables) == 0
    expected = f"There was no race, since {why}: longer starts were not compared."
    assert expected in tuned.facts["verdicts"]


def test_a_perplexity_out_of_proportion_is_told_as_a_power() -> None:
    assert [perplexity(loss) for loss in (5.0, 800.0, inf)] == ["148.4", "e^800", "not calm"]

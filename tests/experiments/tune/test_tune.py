"""What a search leaves behind, from planted trials: nothing is trained here."""

import tomllib

import pytest

from lengthen.config.load import load
from lengthen.distributed import auto
from lengthen.experiments.tune.search import Setting
from lengthen.run.attempts import ATTEMPTS
from tests.experiments.tune.conftest import ROOM, Tuned, own


def test_the_choice_is_a_complete_configuration_that_says_how_it_was_found(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = tuned([Setting(16, 19)])
    assert tuned.config == tuned.problem.training(Setting(16, 19))
    first = (tuned.root / "tuned.toml").read_text().splitlines()[0]
    assert first.startswith(
        "# lengthen tune: Start 16 and T = 76 steps (19 warm-ups): over its first 3 warm-ups the "
        "validation perplexity was never above 1 x the lowest so far. 6 trials, "
    )
    assert len(trials) == 6  # the wildest, two starts, and three to find 19 between 4 and 64
    said = capsys.readouterr().out
    assert f"next    lengthen train {tuned.root / 'tuned.toml'} --out RUN" in said
    assert tuned.facts["chosen"] == {
        "start": 16,
        "duration": 76,
        "warmups": 19,
        "learning_rate": 0.01,
        "rows": 8,
    }


def test_the_page_shows_every_curve_with_its_verdict(tuned: Tuned) -> None:
    tuned([Setting(8, 43)])
    page = (tuned.root / "tune.html").read_text()
    for said in (
        "Early validation perplexity of the trials",
        "start 8, T 16, beginning: calm",
        "start 8, T 256: not calm",
        "Start 8 and T = 172 steps (43 warm-ups)",
        "are two standard errors for a spread of 0.40 nats, as measured early on a small model, ",
    ):
        assert said in page


def test_where_no_start_is_calm_shorter_durations_are_tried_down_to_one_warm_up(
    tuned: Tuned,
) -> None:
    tuned([Setting(16, 1)])
    assert tuned.facts["chosen"]["warmups"] == 1
    tried = [(fact["start"], fact["multiple"]) for fact in tuned.facts["trials"]]
    assert tried == [(8, 64), (8, 4), (16, 4), (16, 2), (16, 1)]
    assert [fact["opening"] for fact in tuned.facts["trials"]] == [False, True, True, False, False]
    assert "larger learning rate" not in " ".join(tuned.facts["verdicts"])


def test_a_file_that_another_search_tuned_goes_aside_and_is_not_lost(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned([Setting(8, 64)])
    before = tuned.config
    wilder = {**ROOM, "optimizer": {"learning_rate": 9.0, "warmup_steps": 4}}
    tuned([], code=6, tables=wilder)
    assert not (tuned.root / "tuned.toml").exists()
    assert load(str(tuned.root / "tuned.before.toml"))[0] == before
    assert "tuned.toml of an earlier search is now tuned.before.toml" in capsys.readouterr().err
    assert tuned.again() == 0  # and costs nothing to have again
    assert tuned.config == before
    assert tuned.again() == 0
    assert "an earlier search" not in capsys.readouterr().out  # the same one goes nowhere


OTHERS = "must be a new or empty directory; this one holds other things and is no search, got"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.toml", OTHERS),
        ("thesis.tex", OTHERS),
        ("trials", OTHERS),
        ("tuned.toml", "is there already and is no choice of a search, so it stays, got"),
        ("tuned.before.toml", "is there already and is no choice of a search, so it stays, got"),
        ("tune.json", "is there already and is no result of a search, so it stays, got"),
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


def test_what_lies_where_a_search_has_its_trials_is_read_only_if_it_is_one(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tuned.root / "trials/one.toml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("no settings of ours = 1")
    assert tuned.again() == 2
    assert OTHERS in capsys.readouterr().err


def test_a_search_goes_on_in_the_precision_that_it_began_with(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_ = tuned([Setting(8, 64)], tables={**ROOM, "run": {"precision": "bf16"}})
    file = tuned.root / "trials" / f"{first.name}.toml"
    file.write_text(first.config.to_toml())
    monkeypatch.setattr(auto, "has_matrix_units", lambda _: False)
    assert tuned.again(tables={**ROOM, "run": {"precision": "auto"}}) == 0
    assert tuned.config.run.precision == "bf16"
    reason = f"as an earlier search in {tuned.root} did"
    assert f'lengthen: run.precision = "auto" takes bf16, {reason}\n' in capsys.readouterr().err


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
    assert OTHERS in capsys.readouterr().err
    own(tuned.root)
    (tuned.root / "tune.json").write_text('{"trials": [], "tool": "another"}')
    assert tuned.again() == 2
    assert "--out: is there already and is no result of a search" in capsys.readouterr().err
    assert theirs.read_text() == "{}"


def test_what_lies_beside_the_trials_of_a_search_stays_and_hinders_nothing(tuned: Tuned) -> None:
    tuned([Setting(8, 64)])
    (tuned.root / "notes.txt").write_text("mine")
    assert tuned.again() == 0
    assert (tuned.root / "notes.txt").read_text() == "mine"


def test_an_out_that_is_a_file_is_refused(tuned: Tuned, capsys: pytest.CaptureFixture[str]) -> None:
    tuned.root.write_text("mine")
    assert tuned.again() == 2
    assert "--out: must be a directory, or not there yet, got" in capsys.readouterr().err


def test_aggressive_doubles_the_rate_then_the_rows_while_the_choice_stays_calm(
    tuned: Tuned, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned([Setting(8, 29, rate=4, rows=2)], "--aggressive")
    assert tuned.config == tuned.problem.training(Setting(8, 29, rate=4, rows=2))
    said = capsys.readouterr().out
    assert (
        "With it the largest learning rate that stayed calm is 0.04 (4 x what was given), and with "
        "that the most rows are 16 (2 x what was given)."
    ) in said
    assert "--aggressive: 4 x the rate, 2 x the rows." in (tuned.root / "tuned.toml").read_text()
    assert tuned.facts["chosen"]["learning_rate"] == 0.04
    tried = [(fact["rate"], fact["rows"]) for fact in tuned.facts["trials"]][-5:]
    assert tried == [(2, 1), (4, 1), (8, 1), (4, 2), (4, 4)]


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
        (
            ["--pacing.kind", "adaptive"],
            2,
            "pacing.kind: must be linear, root, doubling or constant",
        ),
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

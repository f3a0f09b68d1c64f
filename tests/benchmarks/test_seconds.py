"""The table of seconds a token by length, that studies count a run's seconds by."""

import json
from pathlib import Path

import pytest

from benchmarks import seconds
from benchmarks.seconds import main, measured
from lengthen.config.load import load
from lengthen.training.calibrate import TimedStep

SETTINGS = """
model = { layers = 1, width = 16, heads = 2, length = 32, positions = "rope" }
batch = { rows = 4, micro_tokens = 64 }
optimizer.learning_rate = 1e-2
budget.tokens = 6000
pacing = { kind = "doubling", start = 8, duration = 8 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    return path


def test_the_file_says_what_was_measured_of_which_model(
    file: Path, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "seconds.json"
    words = [str(file), "--data", str(store), "--lengths", "16", "8", "64", "--rounds", "5"]
    assert main([*words, "--out", str(out)]) == 0
    facts = json.loads(out.read_text())
    assert (facts["format"], facts["rounds"], facts["threads"]) == (1, 5, 1)
    model = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 257, "positions": "rope"}
    assert facts["model"].items() >= model.items()
    assert "length" not in facts["model"]
    assert (facts["tokens_per_step"], facts["micro_tokens"]) == (128, 64)
    assert facts["processor"]
    assert list(facts["seconds_per_token"]) == ["8", "16", "64"]
    for length, taken in facts["seconds_per_token"].items():
        lowest, highest = facts["lowest_and_highest"][length]
        assert 0 < lowest <= taken <= highest


def test_every_length_has_as_many_tokens_a_step_and_its_turn_in_each_round(
    file: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, int, int]] = []

    def counted(*_: object) -> TimedStep:
        def step(rows: int, length: int, micro_tokens: int) -> float:
            steps.append((rows, length, micro_tokens))
            return float(len(steps))

        return step

    monkeypatch.setattr(seconds, "real_steps", counted)
    found = measured(load(str(file), data=str(store))[0], (8, 32, 256), 6)
    assert set(steps) == {(16, 8, 64), (4, 32, 64), (1, 256, 256)}
    rounds = [steps[first : first + 3] for first in range(0, len(steps), 3)]
    assert len(rounds) == 7
    assert all(len(set(each)) == 3 for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    # The first round is not counted.
    assert sorted(taken * tokens for taken, tokens in zip(found[256], [256] * 6, strict=True)) == [
        number for number, step in enumerate(steps, 1) if step[1] == 256 and number > 3
    ]


def test_settings_without_a_store_are_one_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), "--lengths", "8", "--rounds", "1"]) == 2
    assert "seconds: data.path" in capsys.readouterr().err

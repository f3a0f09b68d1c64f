"""Multiple choice from a file to its figures."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lengthen.evaluation.choice import choose
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.outcome import Outcome
from lengthen.evaluation.requests import requests_of
from lengthen.evaluation.scoring import score
from lengthen.evaluation.tasks import PLACES, TASKS, found
from lengthen.util.errors import DataError, SettingError
from tests.evaluation.made import tiny_subject

SUBJECT = tiny_subject()


def items(count: int) -> list[dict[str, Any]]:
    """Questions that are all different and fit into the tiny model."""
    return [
        {"goal": f"{number}", "sol1": "a" * (1 + number % 9), "sol2": "bcde", "label": number % 2}
        for number in range(count)
    ]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "piqa.jsonl") -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def piqa(folder: Path, **wanted: Any) -> Outcome:
    return choose("piqa", SUBJECT, Wanted(sets=folder, **wanted))


def losses(row: dict[str, Any], header: str = "") -> list[float]:
    context = f"{header}Question: {row['goal']}\nAnswer:"
    pairs = [(context, f" {row[answer]}") for answer in ("sol1", "sol2")]
    return [each.loss for each in score(SUBJECT, requests_of(SUBJECT.text, pairs))]


def test_accuracy_is_how_often_the_likeliest_answer_is_right(tmp_path: Path) -> None:
    rows = items(12)
    raw, normalised = piqa(written(tmp_path, rows)).measures
    right = [losses(row).index(min(losses(row))) == row["label"] for row in rows]
    assert (raw.name, raw.value, raw.chance) == ("accuracy", sum(right) / 12, 0.5)
    per_character = [
        [
            loss / len(row[answer])
            for loss, answer in zip(losses(row), ("sol1", "sol2"), strict=True)
        ]
        for row in rows
    ]
    right = [
        each.index(min(each)) == row["label"] for each, row in zip(per_character, rows, strict=True)
    ]
    assert (normalised.name, normalised.value) == ("normalised accuracy", sum(right) / 12)
    assert raw.value != normalised.value


def test_the_standard_error_is_that_of_a_mean_over_items(tmp_path: Path) -> None:
    for measure in piqa(written(tmp_path, items(12))).measures:
        wanted = math.sqrt(measure.value * (1 - measure.value) / 11)
        assert measure.error == pytest.approx(wanted)
    assert [m.error for m in piqa(tmp_path, limit=1).measures] == [None, None]


def test_answers_that_are_labels_have_no_length_to_account_for(tmp_path: Path) -> None:
    rows = [{"sentence": "good ", "label": 1}]
    outcome = choose(
        "sst2", tiny_subject(length=128), Wanted(sets=written(tmp_path, rows, "sst2.jsonl"))
    )
    assert [measure.name for measure in outcome.measures] == ["accuracy"]


def test_a_limit_takes_the_first_items(tmp_path: Path) -> None:
    outcome = piqa(written(tmp_path, items(12)), limit=5)
    assert outcome.items == 5
    whole = piqa(written(tmp_path / "first", items(5)))
    assert outcome.measures == whole.measures


def test_shots_are_the_same_for_every_item_and_not_scored(tmp_path: Path) -> None:
    rows = items(12)
    outcome = piqa(written(tmp_path, rows), shots=1, seed=3)
    assert outcome.items == 11
    assert ("seed", "3") in outcome.settings
    assert ("shots", "1 from validation, and not scored") in outcome.settings
    # Whichever it was: behind it the others have this accuracy.
    assert outcome.measures[0].value in [_accuracy_behind(shot, rows) for shot in rows]


def _accuracy_behind(shot: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    answer = shot[("sol1", "sol2")[shot["label"]]]
    header = f"Question: {shot['goal']}\nAnswer: {answer}\n\n"
    rest = [row for row in rows if row is not shot]
    found = [losses(row, header) for row in rest]
    right = [each.index(min(each)) == row["label"] for each, row in zip(found, rest, strict=True)]
    return right.count(True) / 11


def test_shots_come_from_the_training_part_where_there_is_one(tmp_path: Path) -> None:
    written(tmp_path, items(4), "piqa/validation.jsonl")
    written(tmp_path, items(9), "piqa/train.jsonl")
    outcome = piqa(tmp_path, shots=1)
    assert outcome.items == 4
    assert ("shots", "1 from train") in outcome.settings


def test_the_seed_alone_chooses_the_shots(tmp_path: Path) -> None:
    written(tmp_path, items(40))
    by_seed = [piqa(tmp_path, shots=1, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert by_seed[0].measures == by_seed[1].measures
    assert len({(each.measures, each.tokens) for each in by_seed}) > 1


def test_too_many_shots_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--shots: must be below the items .*\(4\), got 4"):
        piqa(written(tmp_path, items(4)), shots=4)


def test_an_answer_longer_than_the_model_is_passed_over_and_counted(tmp_path: Path) -> None:
    rows = [*items(3), {"goal": "x", "sol1": "y" * 60, "sol2": "z", "label": 0}]
    outcome = piqa(written(tmp_path, rows))
    assert outcome.items == 3
    (note,) = outcome.notes
    assert note == "items passed over, since an answer exceeds the full length (48): 1"


def test_a_context_longer_than_the_model_is_cut_and_counted(tmp_path: Path) -> None:
    rows = [*items(3), {"goal": "x" * 60, "sol1": "y", "sol2": "z", "label": 0}]
    outcome = piqa(written(tmp_path, rows))
    assert outcome.items == 4
    (note,) = outcome.notes
    assert note == "items whose context lost its left end, since it exceeds the full length: 1"


def test_a_set_of_which_nothing_fits_is_one_line(tmp_path: Path) -> None:
    rows = [{"goal": "x", "sol1": "y" * 60, "sol2": "z", "label": 0}]
    with pytest.raises(DataError, match=r"piqa: no answer fits .* \(48 tokens\)"):
        piqa(written(tmp_path, rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": -1}, "row 2: right answer -1 of 2"),
        ({"sol2": ""}, "row 2: answer 1 of 2 is empty"),
        ({"label": "x"}, "row 2: invalid literal"),
        ({"label": None}, "row 2: int"),
    ],
)
def test_a_row_that_is_no_item_is_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    rows = items(3)
    rows[1] |= change
    with pytest.raises(DataError, match=message):
        piqa(written(tmp_path, rows))
    del rows[1]["goal"]
    with pytest.raises(DataError, match="piqa.jsonl row 2: has no field 'goal'"):
        piqa(written(tmp_path, rows))


def test_a_number_that_means_nothing_is_refused() -> None:
    for make in (partial(Wanted, shots=-1), partial(Wanted, limit=0), partial(Wanted, stride=0)):
        (name,) = make.keywords
        with pytest.raises(SettingError, match=f"--{name}: must be at least"):
            make()


def test_every_task_has_a_place_and_is_found_there(tmp_path: Path) -> None:
    assert set(PLACES) <= set(TASKS)
    assert found(tmp_path) == []
    written(tmp_path, items(1))
    assert found(tmp_path) == ["piqa"]

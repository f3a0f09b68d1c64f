"""DeepSpeed's configurations as ours: the lengths of its formula, and every difference said.

The numbers of PUBLIC are those of public configurations, each named.
"""

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.cli.main import main
from lengthen.config.deepspeed import imported
from lengthen.config.load import build, merge, with_recipe
from lengthen.core.pacing import Linear
from lengthen.util.errors import DataError, SettingError

Block = dict[str, Any]


def block(start: int, end: int, steps: int, multiple: int = 8, degree: int | None = None) -> Block:
    schedule = {"total_curriculum_step": steps, "difficulty_step": multiple}
    return {
        "min_difficulty": start,
        "max_difficulty": end,
        "schedule_type": "fixed_linear" if degree is None else "fixed_root",
        "schedule_config": schedule if degree is None else schedule | {"root_degree": degree},
    }


def legacy(inner: Block) -> Block:
    return {"curriculum_learning": {"enabled": True, "curriculum_type": "seqlen", **inner}}


def efficiency(metric: str, inner: Block) -> Block:
    curriculum = {"enabled": True, "curriculum_metrics": {"voc": {}, metric: inner}}
    return {
        "data_efficiency": {
            "enabled": True,
            "data_sampling": {"enabled": True, "curriculum_learning": curriculum},
        }
    }


DISCRETE = {
    "min_difficulty": 1,
    "max_difficulty": 5,
    "schedule_type": "fixed_discrete",
    "schedule_config": {"difficulty": [1, 2, 3, 4, 5], "max_step": [2, 4, 6, 8]},
}
PUBLIC = {
    "DeepSpeed, docs/_tutorials/curriculum-learning.md": legacy(block(8, 1024, 15_000)),
    "DeepSpeed, docs/_pages/config-json.md": legacy(block(8, 1024, 40_000)),
    "Megatron-DeepSpeed, GPT with 64 to 1024 tokens": legacy(block(64, 1024, 15_000)),
    "Megatron-DeepSpeed, data_efficiency, GPT 1.3B": efficiency(
        "seqlen_truncate", block(80, 2048, 110_000, degree=1)
    ),
    "Megatron-DeepSpeed, data_efficiency, BERT 336M": efficiency(
        "seqlen_truncate", block(128, 512, 960_000, degree=1)
    ),
    "DeepSpeed, tests of the scheduler": legacy(DISCRETE),
    "DeepSpeed, tests of the scheduler, linear": legacy(block(2, 10, 8, multiple=2)),
}


def written(folder: Path, config: object) -> Path:
    path = folder / "ds_config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def formula(inner: Block, k: int) -> int:
    """The k-th step's length as the published formula has it, without 0.19.8's floor."""
    schedule, low, high = inner["schedule_config"], inner["min_difficulty"], inner["max_difficulty"]
    share = float(k) / schedule["total_curriculum_step"]
    length = math.floor(share ** (1 / schedule.get("root_degree", 1)) * (high - low) + low)
    return int(min(high, length - length % schedule["difficulty_step"]))


def inner_of(config: Block) -> Block:
    if "curriculum_learning" in config:
        return dict(config["curriculum_learning"])
    metrics = config["data_efficiency"]["data_sampling"]["curriculum_learning"]
    return dict(metrics["curriculum_metrics"]["seqlen_truncate"])


@pytest.mark.parametrize("name", PUBLIC)
def test_our_step_after_theirs_has_their_length_in_public_configurations(
    name: str, tmp_path: Path
) -> None:
    found, inner = imported(written(tmp_path, PUBLIC[name])), inner_of(PUBLIC[name])
    if inner["schedule_type"] == "fixed_discrete":
        assert [found.pacing(k - 1) for k in range(1, 11)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        return
    steps = inner["schedule_config"]["total_curriculum_step"]
    every = range(1, steps + 1, max(1, steps // 5_000))
    assert [found.theirs(k) for k in every] == [formula(inner, k) for k in every]
    # Their k-th step takes f(k), and we take f(k) one step later.
    assert [found.pacing(k) for k in every] == [formula(inner, k) for k in every]


def test_the_lengths_of_their_own_tests_come_out(tmp_path: Path) -> None:
    found = imported(written(tmp_path, legacy(block(2, 10, 8, multiple=2))))
    assert [found.theirs(k) for k in range(1, 11)] == [2, 4, 4, 6, 6, 8, 8, 10, 10, 10]


def test_what_is_printed_is_a_configuration_and_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Neither the start nor the end is a multiple.
    config = {"train_batch_size": 512, **legacy(block(9, 1000, 15_000, multiple=16))}
    assert main(["import-config", str(written(tmp_path, config))]) == 0
    printed = capsys.readouterr().out
    tables = tomllib.loads(printed)
    built = build(merge(with_recipe({"recipe": "laptop-2min"}), tables)[0])
    assert built.pacing == Linear(start=9, end=1000, duration=15_000, multiple=16)
    assert tables["batch"] == {"rows": 512, "leftovers": "drop"}
    notes = [line for line in printed.splitlines() if line.startswith("# - ")]
    assert "# - first step: 16 tokens there, 9 here" in notes
    assert "# - end: 1000 tokens from step 15122 there, 15001 here" in notes
    kinds = [line.split(":")[0].removeprefix("# - ") for line in notes]
    assert kinds == ["rounding", "first step", "end", "steps", "tokens", "budget"]


def test_tokens_and_steps_that_differ_are_counted(tmp_path: Path) -> None:
    found = imported(written(tmp_path, legacy(block(8, 64, 8))))
    theirs = [formula(inner_of(legacy(block(8, 64, 8))), k) for k in range(1, 9)]
    ours = [found.pacing(k - 1) for k in range(1, 9)]
    notes = dict(note.split(": ", 1) for note in found.differences())
    unequal = sum(one != two for one, two in zip(theirs, ours, strict=True))
    assert notes["steps"].endswith(f"; {unequal} of 8 have another length")
    assert notes["tokens"] == f"a row has {sum(theirs)} in these steps there, {sum(ours)} here"


def test_a_warmup_that_is_off_leaves_the_other(tmp_path: Path) -> None:
    new = efficiency("seqlen_truncate", block(80, 2048, 100, degree=1))
    both = {"curriculum_learning": {"enabled": False}, **new}
    assert imported(written(tmp_path, both))[0] == imported(written(tmp_path, new))[0]
    old = legacy(block(8, 1024, 100))
    both = {**old, "data_efficiency": {"enabled": False}}
    assert imported(written(tmp_path, both))[0] == imported(written(tmp_path, old))[0]


def test_reshaping_holds_the_tokens_of_a_step(tmp_path: Path) -> None:
    found = imported(written(tmp_path, efficiency("seqlen_reshape", block(8, 64, 8))))
    assert dict(found.batch) == {"hold": "tokens"}


@given(
    start=st.integers(1, 300),
    more=st.integers(0, 2000),
    steps=st.integers(1, 500),
    multiple=st.integers(1, 64),
    degree=st.integers(1, 4),
)
def test_any_schedule_is_within_a_multiple_and_the_floor_of_theirs(
    tmp_path_factory: pytest.TempPathFactory,
    start: int,
    more: int,
    steps: int,
    multiple: int,
    degree: int,
) -> None:
    inner = block(start, start + more, steps, multiple, degree)
    found = imported(written(tmp_path_factory.mktemp("any"), legacy(inner)))
    for k in range(1, steps):
        # Above the floors both are one formula; a float may land just below a whole number.
        if found.theirs(k) == formula(inner, k) >= start:
            assert 0 <= found.pacing(k) - formula(inner, k) <= multiple
    assert found.pacing(steps) == start + more


WRONG = [
    ({}, "^the file: has neither curriculum_learning nor data_efficiency"),
    ({"data_efficiency": []}, r"^data_efficiency: must be a table, got \[\]"),
    ({**legacy(block(8, 64, 8)), "train_batch_size": 0}, "^train_batch_size: must be from 1 to"),
    ({**legacy(block(8, 64, 8)), "train_batch_size": True}, "^train_batch_size: must be a whole"),
    ([], r"^the file: must be a table, got \[\]"),
    ({"curriculum_learning": {"enabled": False}}, r"^curriculum_learning\.enabled: must be true"),
    (legacy({"curriculum_type": "voc"}), "^curriculum_learning: paces no length .*, got 'voc'"),
    (
        legacy({"schedule_type": "custom"}),
        r"schedule_type: no such way, got 'custom'; one of fixed",
    ),
    (legacy({"schedule_type": "fixed_lin"}), "did you mean 'fixed_linear'"),
    (legacy({"schedule_type": "fixed_root"}), r"schedule_config: must be a table"),
    (legacy(block(8, 64, 0)), r"total_curriculum_step: must be from 1 to .* got 0"),
    (legacy(block(8, 4, 8)), r"learning\.min_difficulty: must be at most the max \(4\), got 8"),
    (legacy({**block(8, 64, 8), "min_difficulty": "8"}), "min_difficulty: must be a whole number"),
    (legacy({**DISCRETE, "schedule_config": {}}), r"_config\.difficulty: must be a tuple"),
    (legacy({**DISCRETE, "max_difficulty": 4}), r"max_difficulty: must be above 4, .*, got 4"),
    (legacy({"schedule_type": "fixed_root", "schedule_config": {}}), "min_difficulty: is missing$"),
    (
        efficiency("rarity", {}),
        r"metrics: paces no length \(seqlen, seqlen_truncate, .* got 'voc, rarity'",
    ),
]


@pytest.mark.parametrize(("config", "message"), WRONG)
def test_what_cannot_be_translated_is_one_line(
    tmp_path: Path, config: object, message: str
) -> None:
    with pytest.raises(SettingError, match=message) as error:
        imported(written(tmp_path, config))
    assert "\n" not in str(error.value)


def test_what_is_no_json_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    path.write_text("{")
    with pytest.raises(DataError, match=r"ds_config.json: is no JSON \(Expecting property name"):
        imported(path)

"""Ways out of what a search for start and duration says; nothing is trained but its choice."""

from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.cli.overrides import parse_overrides
from lengthen.config.load import nested, with_overrides
from lengthen.config.schema import Tables
from lengthen.data.prepare import prepare
from lengthen.data.store import Store
from lengthen.experiments.tune.problem import define_problem
from lengthen.experiments.tune.search import Setting
from lengthen.experiments.tune.summary import remedies
from lengthen.util.errors import DataError, SettingError
from tests.conftest import Configure
from tests.experiments.tune.conftest import ROOM, Asked, Tuned
from tests.ways_out import takes


@takes(
    "prepare with a larger --valid",
    "--judge-tokens {} asks for more",
    ", or judge more coarsely with --judge-tokens {}",
)
def test_a_validation_part_that_is_too_small_to_judge(
    tunable: Configure, store: Path, tmp_path: Path, text: str
) -> None:
    with pytest.raises(DataError, match="judge more coarsely with --judge-tokens") as caught:
        define_problem(tunable(), Store.open(store))
    there = int(str(caught.value).split()[-1])
    assert define_problem(tunable(), Store.open(store), judge_tokens=there)
    with pytest.raises(DataError, match="asks for more; prepare with a larger --valid"):
        define_problem(tunable(), Store.open(store), judge_tokens=there + 1)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    larger = tmp_path / "larger"
    prepare(tmp_path / "text.txt", larger, tokenizer="bytes", valid=0.3, quiet=True)
    assert define_problem(tunable(), Store.open(larger), judge_tokens=there + 1)


@takes("--pacing.kind linear --pacing.start 8 --pacing.duration 100 will do")
def test_a_pacing_that_has_no_duration_to_tune(tunable: Configure, store: Path) -> None:
    staged = tunable(pacing={"kind": "staged", "values": [8, 64], "boundaries": [9]})
    with pytest.raises(SettingError) as caught:
        define_problem(staged, Store.open(store), judge_tokens=512)
    given, _ = parse_overrides(caught.value.hint.removesuffix(" will do").split())
    assert define_problem(
        with_overrides(staged, nested(given)), Store.open(store), judge_tokens=512
    )


@takes("lower optimizer.warmup_steps or batch.rows", ", or give smaller --starts")
def test_a_budget_without_room_for_a_trial(asked: Asked) -> None:
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 40, "betas": [0.9, 0.999]}
    short: Tables = {"budget": {"tokens": 26_000}, "optimizer": optimizer}
    with pytest.raises(SettingError, match="lower optimizer.warmup_steps or batch.rows"):
        asked(starts=(32,), **short)
    with pytest.raises(SettingError, match="or give smaller --starts"):
        asked(starts=(8, 32), **short)
    assert asked(starts=(8,), **short)
    assert asked(starts=(32,), **{**short, "optimizer": {**optimizer, "warmup_steps": 4}})
    assert asked(starts=(32,), **short, batch={"rows": 1, "micro_tokens": 64})


@takes("lower {}", "raise optimizer.warmup_steps ({})", "try longer starts with --starts {}")
def test_no_calm_trial(asked: Asked) -> None:
    said = remedies(asked(starts=(8, 16), **ROOM))
    for part in ("optimizer.learning_rate", "batch.rows", "raise optimizer.warmup_steps"):
        assert part in said
    longer = int(said.split()[-1])
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 8, "betas": [0.9, 0.999]}
    assert asked(starts=(longer,), **ROOM)
    assert asked(**ROOM, optimizer=optimizer)
    assert asked(**ROOM, optimizer={**optimizer, "learning_rate": 1e-3})
    assert asked(**ROOM, batch={"rows": 4, "micro_tokens": 64})


@takes("{}: raise the budget, or lower optimizer.warmup_steps.")
def test_a_budget_that_ends_before_full_length(tuned: Tuned) -> None:
    tables: Tables = {"budget": {"tokens": 3000}}
    early = "Even with this T the budget ends before full length is reached"

    def said(**changes: Tables) -> str:
        tuned.root = tuned.folder / str(len(list(tuned.folder.iterdir())))
        tuned([Setting(8, 64)], tables={**tables, **changes})
        return " ".join(tuned.facts["verdicts"])

    assert early in said()
    assert early not in said(budget={"tokens": 20_000})
    quick = {"learning_rate": 1e-2, "warmup_steps": 1, "betas": [0.9, 0.999]}
    assert early not in said(optimizer=quick)


@takes(
    "a larger learning rate or batch may be possible: --aggressive looks for it.",
    "next    lengthen train {} --out RUN",
)
def test_what_follows_a_choice(tuned: Tuned, capsys: pytest.CaptureFixture[str]) -> None:
    calm = [Setting(start, 64, rate, rows) for start in (8, 16) for rate in (8,) for rows in (8,)]
    tuned(calm)
    assert "--aggressive looks for it." in " ".join(tuned.facts["verdicts"])
    said = capsys.readouterr().out.splitlines()
    (command,) = [line for line in said if line.startswith("next    lengthen train ")]
    run = str(tuned.folder / "run")
    words = command.removeprefix("next    lengthen ").replace("RUN", run).split()
    assert main([*words, "--quiet", "--budget.tokens", "1000"]) == 0
    tuned(calm, "--aggressive")
    assert "the largest learning rate that stayed calm" in " ".join(tuned.facts["verdicts"])

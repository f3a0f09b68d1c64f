"""The step: no split changes its gradient, and one that is not finite touches nothing."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import list_checkpoints
from lengthen.cli.main import main
from lengthen.data.open_store import open_store
from lengthen.model import optim
from lengthen.run.metrics import read_metrics
from lengthen.run.records import EvalRecord, ProbeRecord, StepRecord, to_json
from lengthen.training import monitor
from lengthen.training.start import resume, train
from lengthen.training.trainer import Trainer
from lengthen.util.errors import UnstableError
from tests.conftest import AskFor, Configure, trainer_of
from tests.ranks import commands, finish, joined_trainer, results, train_steps

# With beta1 = 0 Adam's first moment is the gradient itself; nothing may come between the two.
GRADIENTS: dict[str, dict[str, Any]] = {
    "optimizer": {"betas": [0.0, 0.9], "clip": 0.0, "warmup_steps": 0},
    "run": {"precision": "fp64"},
    "pacing": {"kind": "constant"},
    "batch": {"rows": 7, "micro_tokens": 448},
}

CLOCK = {"beta2_half_life": 2000, "rate_by_tokens": "sqrt"}


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    moments = trainer.tensors()["optimizer"]
    return {name: value for name, value in moments.items() if name.endswith("exp_avg")}


def difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any two elements, relative to the largest of its tensor."""
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs
    )


@pytest.fixture(scope="module")
def whole(configured: Configure) -> dict[str, torch.Tensor]:
    """The gradient of one unsplit step of seven rows."""
    trainer = trainer_of(configured(**GRADIENTS))
    trainer.step()
    return gradients(trainer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_defaults_of_a_host_change_no_weight_and_its_random_numbers_are_its_own(
    configured: Configure, dtype: torch.dtype
) -> None:
    ours, before = trainer_of(configured()), torch.get_rng_state()
    torch.set_default_dtype(dtype)
    try:
        theirs = trainer_of(configured())
    finally:
        torch.set_default_dtype(torch.float32)
    for trainer in (ours, theirs):
        trainer.step()
    for pair in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(*pair)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_default_device_of_a_host_is_computed_on(configured: Configure) -> None:
    tables: dict[str, Any] = {
        "model": {"positions_start": "spread"},
        "pacing": {"kind": "doubling"},
        "run": {"recompute": True},
    }
    ours = trainer_of(configured(**tables)).step()
    torch.set_default_device("meta")  # nothing can be computed there
    try:
        theirs = trainer_of(configured(**tables)).step()
    finally:
        torch.set_default_device(None)
    assert ours is not None
    assert theirs is not None
    assert (ours.loss, ours.grad_norm) == (theirs.loss, theirs.grad_norm)


def test_dropout_draws_from_its_own_seed_and_not_from_the_host_s(configured: Configure) -> None:
    trainer = trainer_of(configured(model={"dropout": 0.1}))
    before = torch.get_rng_state()
    trainer.step()
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=8)
@given(micro_tokens=st.integers(64, 500))
def test_no_split_into_micro_batches_changes_the_gradient(
    configured: Configure, whole: dict[str, torch.Tensor], micro_tokens: int
) -> None:
    batch = {**GRADIENTS["batch"], "micro_tokens": micro_tokens}
    trainer = trainer_of(configured(**{**GRADIENTS, "batch": batch}))
    record = trainer.step()
    assert record is not None
    assert difference(gradients(trainer), whole) < 1e-10


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("world_size", "optimizer"),
    [pytest.param(2, {}, marks=pytest.mark.slow), (3, {}), (3, CLOCK)],
    ids=["2", "3", "3 by tokens"],
)
def test_f30_no_number_of_ranks_changes_the_gradient_or_the_ledger(
    configured: Configure, tmp_path: Path, world_size: int, optimizer: dict[str, Any]
) -> None:
    # Rows 7 on 2 and 3 ranks are uneven; from one row on, a rank has none at all.
    tables = {
        **GRADIENTS,
        "pacing": {"of": "rows", "start": 1, "duration": 3},
        "batch": {"rows": 7, "micro_tokens": 64},
        "optimizer": {**GRADIENTS["optimizer"], **optimizer},
    }
    config = configured(**tables)
    moments = tmp_path / "moments.safetensors"
    first, *_ = results(*[partial(train_steps, config, 4, moments)] * world_size)
    alone = trainer_of(config)
    records = [alone.step() for _ in range(4)]
    theirs = first["records"]
    assert [line["rows"] for line in theirs] == [1, 3, 5, 7]
    assert difference(load_file(moments), alone.tensors()["optimizer"]) < 1e-10
    for ours, other in zip(records, theirs, strict=True):
        assert ours is not None
        assert ours.loss == pytest.approx(other["loss"], rel=1e-12)
        assert ours.variance_norm == pytest.approx(other["variance_norm"], rel=1e-10)
    assert first["ledger"] == json.loads(json.dumps(alone.state_dict()["ledger"]))


def test_a_step_line_has_its_fields_in_order(configured: Configure) -> None:
    record = trainer_of(configured()).step()
    assert record is not None
    assert list(to_json(record)) == [
        "kind",
        "step",
        "tokens",
        "length",
        "rows",
        "loss",
        "loss_ratio",
        "grad_norm",
        "variance_norm",
        "variance_max",
        "lr",
        "joined",
        "seconds",
    ]
    assert (record.step, record.tokens, record.length, record.rows) == (1, 64, 8, 8)
    assert record.loss_ratio is None
    assert record.loss == pytest.approx(5.55, abs=0.1)  # ln 257: nothing is known yet


def test_the_loss_ratio_is_over_the_lowest_earlier_loss(configured: Configure) -> None:
    trainer = trainer_of(configured())
    losses: list[float] = []
    for _ in range(12):
        record = trainer.step()
        assert record is not None
        if losses:
            assert record.loss_ratio == (record.loss or 0) / min(losses)
        losses.append(record.loss or 0)


def test_the_variance_numbers_are_those_of_adams_second_moment(configured: Configure) -> None:
    trainer = trainer_of(configured())
    trainer.step()
    record = trainer.step()
    assert record is not None
    moments = trainer.tensors()["optimizer"]
    roots = [value.sqrt() for name, value in moments.items() if name.endswith("exp_avg_sq")]
    assert record.variance_norm == pytest.approx(sum(float(r.sum()) for r in roots), rel=1e-5)
    assert record.variance_max == pytest.approx(max(float(r.max()) for r in roots), rel=1e-6)


def kept(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A copy of all weights and moments."""
    groups = trainer.tensors().items()
    return {
        f"{group}.{name}": value.clone() for group, named in groups for name, value in named.items()
    }


def poisoned_step(trainer: Trainer, *, gradient: bool) -> StepRecord:
    """Train one step that is not finite: in its loss, or in one element of one gradient only."""
    element = next(trainer.model.parameters())[0, 0]
    # The root of nothing is nothing, and its slope is infinite.
    addend = (element - element.detach()).sqrt() if gradient else torch.tensor(torch.nan)
    handle = trainer.model.register_forward_hook(lambda _m, _i, loss: loss + addend)
    record = trainer.step()
    handle.remove()
    assert record is not None
    return record


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_f32_f33_a_step_that_is_not_finite_advances_the_counters_alone(
    configured: Configure, gradient: bool
) -> None:
    trainer = trainer_of(configured())
    for _ in range(3):
        trainer.step()
    before = kept(trainer)
    counters = trainer.train_state.counters
    record = poisoned_step(trainer, gradient=gradient)
    assert record.finite is False
    assert (record.loss is None) is (not gradient)
    after = kept(trainer)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert trainer.train_state.counters.step == counters.step + 1
    assert trainer.train_state.skipped_tokens == (record.rows or 0) * (record.length or 0)
    again = trainer.step()
    assert again is not None
    assert again.finite


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "tables",
    [
        {"pacing": {"kind": "constant"}},
        {
            "pacing": {"kind": "doubling", "duration": 4},
            "batch": {"hold": "tokens", "leftovers": "in_place"},
        },
    ],
    ids=["baseline", "cut in place"],
)
@settings(max_examples=4, deadline=None)
@given(half_life=st.integers(1, 10**6))
def test_with_constant_tokens_the_clock_by_tokens_is_the_clock_by_steps_to_the_last_bit(
    configured: Configure, tables: dict[str, dict[str, Any]], precision: str, half_life: int
) -> None:
    beta2 = 0.5 ** (8 * 64 / half_life)
    found = []
    for optimizer in ({**CLOCK, "beta2_half_life": half_life}, {"betas": [0.9, beta2]}):
        changes = {"run": {"precision": precision}, "budget": {"tokens": 6 * 8 * 64}, **tables}
        trainer = trainer_of(configured(**changes, optimizer=optimizer))
        records = list(iter(trainer.step, None))
        assert len(records) == 6
        found.append((trainer, [replace(one, seconds=0.0) for one in records if one]))
    (by_tokens, ours), (by_steps, theirs) = found
    assert ours == theirs
    moments = kept(by_steps)
    assert all(torch.equal(value, moments[name]) for name, value in kept(by_tokens).items())


def test_a_skipped_step_counts_in_no_moment_and_a_resume_knows_it(configured: Configure) -> None:
    config = configured(optimizer={**CLOCK, "betas": [0.9, 0.5]}, run={"precision": "fp64"})
    trainer = trainer_of(config)
    lacks, rate = 1.0, 0.0
    for number in range(6):
        poisoned, before = number in (0, 3), trainer.train_state.counters.tokens
        record = poisoned_step(trainer, gradient=True) if poisoned else trainer.step()
        assert record is not None
        beta2 = 0.5 ** ((trainer.train_state.counters.tokens - before) / 2000)
        lacks *= 1 if poisoned else beta2
        updates = number + 1 - (number > 0) - (number > 3)
        rate = (
            (record.lr or 0.0) * math.sqrt((1 - lacks) / (1 - beta2**updates)) if updates else 0.0
        )
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-12)
    tensors = {group: dict(named) for group, named in trainer.tensors().items()}
    state = json.loads(json.dumps(trainer.state_dict()))
    again = trainer_of(config)
    again.restore(checkpoint.Checkpoint(Path("step-6"), 6, state, tensors, ""))
    for one in (trainer, again):
        one.step()
    assert again.optimizer.param_groups[0]["lr"] == trainer.optimizer.param_groups[0]["lr"]
    unbroken = kept(trainer)
    assert all(torch.equal(value, unbroken[name]) for name, value in kept(again).items())


@pytest.mark.ranks
@pytest.mark.parametrize("what", [pytest.param("loss", marks=pytest.mark.slow), "gradient"])
def test_f33_what_is_not_finite_on_one_rank_alone_is_skipped_by_all(
    configured: Configure, what: str
) -> None:
    def poisoned_on_the_second() -> dict[str, Any]:
        with joined_trainer(configured()) as trainer:
            for _ in range(3):
                trainer.step()
            before = kept(trainer)
            here = trainer.context.rank == 1
            record = poisoned_step(trainer, gradient=what == "gradient") if here else trainer.step()
            after = kept(trainer)
            equal = all(torch.equal(after[name], value) for name, value in before.items())
            again = trainer.step()
            assert record is not None
            assert again is not None
            return {"record": to_json(record), "untouched": equal, "again": to_json(again)}

    for result in results(poisoned_on_the_second, poisoned_on_the_second):
        assert result["record"]["finite"] is False
        assert result["record"]["loss" if what == "loss" else "grad_norm"] is None
        assert result["untouched"]
        assert result["again"].get("finite", True)


def poisoned_training(monkeypatch: pytest.MonkeyPatch, at: set[int]) -> None:
    """Make chosen steps (finished steps before them) lose their loss."""
    step = Trainer.step

    def sometimes(self: Trainer) -> Any:
        if self.train_state.counters.step in at:
            handle = self.model.register_forward_hook(lambda _m, _i, loss: loss * torch.nan)
            try:
                return step(self)
            finally:
                handle.remove()
        return step(self)

    monkeypatch.setattr(Trainer, "step", sometimes)


def test_f32_training_stops_at_a_loss_that_is_not_finite_and_can_continue_past_it(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned_training(monkeypatch, {6})
    run = tmp_path / "run"
    with pytest.raises(
        UnstableError, match=r"step 7 .*weights are untouched; resume from step-0000000"
    ):
        train(configured(), run, quiet=True)
    last = read_metrics(run / "metrics.jsonl").steps[-1]
    assert (last.step, last.finite, last.loss) == (7, False, None)
    resume(run, settings={"run": {"on_nonfinite": "skip"}}, quiet=True)
    metrics = read_metrics(run / "metrics.jsonl")
    assert [event.step for event in metrics.events if event.name == "skipped"] == [7]
    assert 10_000 - 64 < (metrics.steps[-1].tokens or 0) <= 10_000


def test_f32_three_skips_in_a_row_stop_a_run_all_the_same(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned_training(monkeypatch, {3, 4, 6, 7, 8})
    with pytest.raises(UnstableError, match="step 9 "):
        train(configured(run={"on_nonfinite": "skip"}), tmp_path / "run", quiet=True)


def test_f32_a_run_that_is_not_finite_ends_in_one_line_with_code_6(
    configured: Configure, tmp_path: Path, ask_for: AskFor, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text(configured().to_toml())
    ask_for("step:7:nan")
    words = ["train", str(tmp_path / "config.toml"), "--quiet", "--out", str(tmp_path / "run")]
    assert main(words) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lengthen: loss or gradient of step 7 (length 32, 1024 tokens) is not")
    assert "resume from step-00000006" in line
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"loss":null' in text
    assert '"finite":false' in text


def test_f36_a_spike_that_is_finite_is_recorded_and_stops_nothing(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(optimizer={"learning_rate": 3.0, "warmup_steps": 0, "clip": 0.0})
    summary = train(config, tmp_path / "run", quiet=True)
    steps = read_metrics(tmp_path / "run" / "metrics.jsonl").steps
    assert summary.short_of_budget < 64
    assert max(line.loss_ratio or 0 for line in steps) > 1.2
    assert all(line.finite for line in steps)


def test_f37_a_second_moment_that_overflows_is_null_in_the_log(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = optim.second_moment_scale

    def overflown(optimizer: torch.optim.Optimizer) -> torch.Tensor:
        for state in optimizer.state.values():
            state["exp_avg_sq"].fill_(torch.inf)  # as squares of 2e19 would be in float32
        return scale(optimizer)

    monkeypatch.setattr(monitor, "second_moment_scale", overflown)
    train(configured(budget={"tokens": 300}), tmp_path / "run", quiet=True)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert metrics.unreadable == 0
    assert {(s.variance_norm, s.variance_max) for s in metrics.steps} == {(None, None)}


@pytest.mark.parametrize(
    "tables",
    [
        {"pacing": {"of": "rows", "start": 1}},
        {"batch": {"hold": "tokens"}},
        {"run": {"precision": "bf16"}},
        {"batch": {"leftovers": "drop"}},
        {"model": {"dropout": 0.1}},
    ],
    ids=["rows pacing", "held tokens", "bf16", "dropped leftovers", "dropout"],
)
def test_every_way_to_train_learns(
    configured: Configure, tmp_path: Path, tables: dict[str, Any]
) -> None:
    summary = train(configured(**tables, budget={"tokens": 20_000}), tmp_path / "run", quiet=True)
    assert 0 <= summary.short_of_budget < 64
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert (metrics.evaluations[-1].loss or 0) < 4.0 < (metrics.steps[0].loss or 0)
    tokens = 0
    for line in metrics.steps:
        tokens += (line.rows or 0) * (line.length or 0)
        assert line.tokens == tokens


def test_evaluations_probes_and_saves_come_when_they_are_due(
    configured: Configure, tmp_path: Path
) -> None:
    saving = {"every_steps": 6, "keep": 2}
    train(configured(saving=saving), tmp_path / "run", quiet=True)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    last = metrics.steps[-1].step
    due = list(range(5, last + 1, 5))
    assert [line.step for line in metrics.evaluations] == due + [last] * (last % 5 > 0)
    assert [line.step for line in metrics.probes] == list(range(7, last + 1, 7))
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 2


def test_evaluation_by_tokens_crosses_each_multiple_once(
    configured: Configure, tmp_path: Path
) -> None:
    evaluation = {"every_tokens": 2000, "every_steps": 0}
    train(configured(evaluation=evaluation), tmp_path / "run", quiet=True)
    tokens = [e.tokens or 0 for e in read_metrics(tmp_path / "run" / "metrics.jsonl").evaluations]
    assert [t // 2000 for t in tokens[:4]] == [1, 2, 3, 4]


def test_an_epoch_trains_on_every_token_of_the_corpus_once(
    configured: Configure, tmp_path: Path
) -> None:
    config = configured(budget={"epochs": 1}, batch={"rows": 32, "micro_tokens": 2048})
    summary = train(config, tmp_path / "run", quiet=True)
    sequences = (len(open_store(config).train) - 1) // 64
    assert summary.tokens + summary.short_of_budget == sequences * 64
    state = checkpoint.load_newest(tmp_path / "run" / "checkpoints")[0].state
    assert state["ledger"]["epoch"] == 0
    joined = [line.joined or 0.0 for line in read_metrics(tmp_path / "run" / "metrics.jsonl").steps]
    assert joined[0] == 0.0 < max(joined) <= 1.0


@pytest.mark.ranks
def test_the_same_command_trains_on_two_ranks(configured: Configure, tmp_path: Path) -> None:
    config = configured(budget={"tokens": 4000}, run={"precision": "fp64"})
    (tmp_path / "config.toml").write_text(config.to_toml())
    words = ["train", str(tmp_path / "config.toml"), "--quiet", "--out"]
    finish(commands(*[[*words, str(tmp_path / "two")]] * 2))
    assert main([*words, str(tmp_path / "one")]) == 0
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for kind in (StepRecord, EvalRecord, ProbeRecord):
        pairs = list(zip(one.of(kind), two.of(kind), strict=True))
        assert pairs
        for ours, theirs in pairs:
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-9)


def test_a_restored_trainer_has_let_go_of_the_files(configured: Configure, tmp_path: Path) -> None:
    train(configured(budget={"tokens": 1_000}), tmp_path / "run", quiet=True)
    saved, _ = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    trainer = trainer_of(configured())
    trainer.restore(saved)
    kept = {group: {n: t.clone() for n, t in ts.items()} for group, ts in trainer.tensors().items()}
    for file in saved.path.glob("*.safetensors"):
        with file.open("r+b") as handle:  # as a disk that fails does: in place
            handle.write(bytes(file.stat().st_size))
    for group, tensors in trainer.tensors().items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, kept[group][name])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of its own insides
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_training_makes_few_graphs_and_the_same_losses(
    configured: Configure, recompute: bool
) -> None:
    plain = trainer_of(configured())
    counters.clear()
    compiled = trainer_of(configured(run={"compile": "on", "recompute": recompute}))
    lengths = set()
    for _ in range(14):
        record, expected = compiled.step(), plain.step()
        assert record is not None
        assert expected is not None
        assert record.loss == pytest.approx(expected.loss, rel=1e-4)
        lengths.add(record.length)
    assert len(lengths) == 8  # every multiple of 8 up to the full length
    assert counters["stats"]["unique_graphs"] <= 4


def test_f35_dropout_is_on_after_an_evaluation_in_which_memory_ran_out(
    configured: Configure,
) -> None:
    trainer = trainer_of(configured(model={"dropout": 0.5}))

    def run_out(*_: object) -> None:
        hook.remove()
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    hook = trainer.module.register_forward_hook(run_out)
    assert trainer.evaluate() is not None
    assert trainer.module.training

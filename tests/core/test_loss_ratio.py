"""The monitor's values against an independent computation in float64, step by step."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from lengthen.checkpoint.restore import build_model
from lengthen.core.loss_ratio import PROBE_SEQUENCES, LowestLoss, finite_or_none
from lengthen.data.loader import Batch
from lengthen.data.stream import StreamState
from lengthen.distributed.context import DistributedContext
from lengthen.model.gpt import GPT
from lengthen.model.optim import AdamW, second_moment_scale
from lengthen.run.records import ProbeRecord, StepRecord, to_json
from lengthen.training.trainer import Trainer
from tests.conftest import Configure, trainer_of
from tests.ranks import results, train_steps

CLOSE = 1e-5  # relative
STEPS = 16  # past the length warmup and the rate's, with both kinds of rows


def mean_loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy the plain way: whole logits, torch's own loss."""
    return functional.cross_entropy(model.logits(inputs).flatten(0, 1), targets.flatten())


@dataclass
class Oracle:
    """Everything that a step line says, from the weights before the step and the moments after."""

    trainer: Trainer
    model: GPT  # takes the trainer's weights before each step
    # Float64; of bfloat16 products only another bfloat16 can tell the gradient
    context: DistributedContext
    lowest: float | None = None
    lowest_probe: float | None = None

    def before(self, batch: Batch) -> dict[str, float | None]:
        """Loss, ratio and gradient norm of a step that has not been trained yet."""
        self.model.load_state_dict(self.trainer.model.state_dict())
        self.model.zero_grad()
        with self.context.autocast():
            loss = mean_loss(self.model, *batch)
        torch.autograd.backward(loss)
        squares = [
            p.grad.double().square().sum() for p in self.model.parameters() if p.grad is not None
        ]
        ratio = None if self.lowest is None else loss.item() / self.lowest
        self.lowest = min(loss.item(), self.lowest or loss.item())
        norm = torch.stack(squares).sum().sqrt().item()
        return {"loss": loss.item(), "loss_ratio": ratio, "grad_norm": norm}

    def after(self) -> dict[str, float]:
        """The scale of the second moment, from the optimizer's own tensors."""
        states = (self.trainer.optimizer.state[p] for p in self.trainer.model.parameters())
        roots = [state["exp_avg_sq"].double().sqrt() for state in states]
        norm, largest = (
            sum(root.sum().item() for root in roots),
            max(float(r.max()) for r in roots),
        )
        return {"variance_norm": norm, "variance_max": largest}

    def probe(self) -> dict[str, float | None]:
        """The loss over the first full-length validation sequences, and its ratio."""
        length = self.trainer.config.model.length
        tokens = torch.tensor(
            self.trainer.store.valid[: PROBE_SEQUENCES * length + 1].astype("int64")
        )
        self.model.load_state_dict(self.trainer.model.state_dict())
        with torch.no_grad(), self.context.autocast():
            rows = tokens[:-1].reshape(-1, length), tokens[1:].reshape(-1, length)
            loss = mean_loss(self.model, *rows).item()
        ratio = None if self.lowest_probe is None else loss / self.lowest_probe
        self.lowest_probe = min(loss, self.lowest_probe or loss)
        return {"loss": loss, "loss_ratio": ratio}


def oracle_of(trainer: Trainer) -> Oracle:
    low = trainer.config.run.precision == "bf16"
    context = DistributedContext(torch.device("cpu"), "bf16" if low else "fp64")
    return Oracle(trainer, build_model(trainer.config, context), context)


def next_batch(trainer: Trainer) -> Batch:
    """The tokens of the step that comes next, on one process."""
    now = trainer.train_state
    step = trainer.inputs.stream.after(StreamState(now.counters, now.ledger))
    assert step is not None
    return trainer.inputs.loader.load(step.blocks, step.plan.length, range(step.plan.rows))


def same(record: StepRecord | ProbeRecord, expected: dict[str, Any], rel: float) -> None:
    for name, value in expected.items():
        assert getattr(record, name) == (
            value if value is None else pytest.approx(value, rel=rel)
        ), name


# A second moment starts from zero: at a large beta2 it stays far from the gradient's square.
TABLES: dict[str, Any] = {
    "optimizer": {"clip": 0.5, "betas": [0.9, 0.99], "warmup_steps": 4, "learning_rate": 5e-2},
    "budget": {"tokens": 100_000},
}


@pytest.mark.parametrize(
    ("precision", "gradient"),
    # A gradient in bfloat16 depends on where it is scaled and summed; the state is exact.
    [("fp32", CLOSE), ("bf16", 1e-2)],
)
def test_every_value_of_every_step_is_that_of_an_independent_computation(
    configured: Configure, precision: str, gradient: float
) -> None:
    trainer = trainer_of(configured(**TABLES, run={"precision": precision}))
    oracle = oracle_of(trainer)
    lengths, clipped, joined, rose = set(), 0, 0, 0
    for _ in range(STEPS):
        expected = oracle.before(next_batch(trainer))
        rate = trainer.schedule.learning_rate_at(trainer.train_state.counters)
        record = trainer.step()
        assert record is not None
        same(record, expected, gradient)
        same(record, oracle.after(), CLOSE)
        assert record.lr == rate
        probed = trainer.probe()
        assert probed is not None
        same(probed, oracle.probe(), gradient)
        lengths.add(record.length)
        clipped += (record.grad_norm or 0) > 0.5
        joined += (record.joined or 0) > 0
        rose += (record.loss_ratio or 0) > 1
    assert lengths == set(range(8, 65, 8))
    assert min(clipped, joined, rose) > 0


def test_the_scale_of_the_second_moment_stays_exact_over_millions_of_parameters() -> None:
    # A sum that adds up one by one in float32 is off by far more than CLOSE here.
    weight = torch.nn.Parameter(torch.zeros(2**21))
    moment = torch.rand(2**21, generator=torch.Generator().manual_seed(0)) ** 4
    optimizer = AdamW([weight])
    optimizer.state[weight] = {"exp_avg_sq": moment}
    norm, largest = second_moment_scale(optimizer).tolist()
    assert norm == pytest.approx(moment.double().sqrt().sum().item(), rel=1e-6)
    assert largest == pytest.approx(moment.double().sqrt().max().item(), rel=1e-6)


def test_the_rate_rises_with_the_steps_and_falls_with_the_tokens(configured: Configure) -> None:
    trainer = trainer_of(configured(**TABLES))
    rates = []
    for _ in range(STEPS):
        record = trainer.step()
        assert record is not None
        rates.append(record.lr or 0.0)
    assert rates[:4] == pytest.approx([0.0125, 0.025, 0.0375, 0.05])
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_unclipped_gradients_have_the_same_norm_as_clipped_ones(configured: Configure) -> None:
    norms = []
    for clip in (0.0, 0.5):
        optimizer = {**TABLES["optimizer"], "clip": clip}
        record = trainer_of(configured(**{**TABLES, "optimizer": optimizer})).step()
        assert record is not None
        norms.append(record.grad_norm or 0.0)
    assert norms[0] == norms[1] > 0.5


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_spoilt_weights_are_recorded_as_not_finite_and_the_moments_stay_sound(
    configured: Configure, poison: float
) -> None:
    trainer = trainer_of(configured(**TABLES))
    oracle = oracle_of(trainer)
    for _ in range(3):
        trainer.step()
    sound, lowest = oracle.after(), trainer.train_state.lowest
    with torch.no_grad():
        trainer.model.norm.weight[0] = poison
    record, probed = trainer.step(), trainer.probe()
    assert record is not None
    assert probed is not None
    assert (record.finite, record.loss, record.loss_ratio) == (False, None, None)
    same(record, sound, CLOSE)
    assert (probed.loss, probed.loss_ratio) == (None, None)
    assert trainer.train_state.lowest == lowest
    json.dumps([to_json(record), to_json(probed)], allow_nan=False)  # as the log takes it


def reads(work: Callable[[], object]) -> int:
    """How often the host asks for one number of a tensor: item, float, int and bool.

    A CPU's fused update reads its step counts, which are on the host already.
    """
    # Said only since torch 2.11 warns without it.
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        work()
    asked = [each for each in seen.events() or () if each.name == "aten::_local_scalar_dense"]
    return sum("aten::_fused_adamw_" not in callers(each) for each in asked)


def callers(event: Any) -> list[str]:
    above = event.cpu_parent
    return [] if above is None else [above.name, *callers(above)]


def test_a_step_reads_its_numbers_from_the_device_once(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(configured(**TABLES, pacing={"kind": "constant"}))
    trainer.step()
    read: list[Tensor] = []
    tolist = Tensor.tolist

    def noted(tensor: Tensor) -> Any:
        read.append(tensor)
        return tolist(tensor)

    monkeypatch.setattr(Tensor, "tolist", noted)
    assert reads(trainer.step) == 0
    assert len(read) == 1
    assert reads(lambda: float(torch.ones(1).sum())) == 1  # it does count


@pytest.mark.ranks
def test_two_ranks_record_what_one_process_computes(configured: Configure, tmp_path: Path) -> None:
    config = configured(**TABLES)
    saved = tmp_path / "moments.safetensors"
    first, _ = results(*[partial(train_steps, config, STEPS, saved)] * 2)
    records, moments = [StepRecord(**line) for line in first["records"]], load_file(saved)
    roots = [v.double().sqrt() for name, v in moments.items() if name.endswith("exp_avg_sq")]
    assert records[-1].variance_norm == pytest.approx(sum(r.sum().item() for r in roots), rel=CLOSE)
    assert records[-1].variance_max == pytest.approx(max(r.max().item() for r in roots), rel=CLOSE)
    alone = trainer_of(config)
    oracle = oracle_of(alone)
    # Rounding differs between one process and two and grows with the steps: the first is exact.
    same(records[0], oracle.before(next_batch(alone)), CLOSE)
    for record in records:
        expected = alone.step()
        assert expected is not None
        names = ("loss", "loss_ratio", "grad_norm", "variance_norm", "variance_max", "lr")
        same(record, {name: getattr(expected, name) for name in names}, 1e-3)


@given(losses=st.lists(st.floats(0.001, 100.0) | st.just(float("nan")), max_size=20))
def test_the_ratio_is_over_the_lowest_finite_loss_before(losses: list[float]) -> None:
    lowest, finite = LowestLoss(), list[float]()
    for loss in losses:
        known = finite and loss == loss
        assert lowest.ratio(loss) == (loss / min(finite) if known else None)
        lowest = lowest.after(loss)
        finite += [loss] * (loss == loss)


def test_a_loss_of_zero_gives_no_ratio_and_json_no_infinity() -> None:
    assert LowestLoss(0.0).ratio(1.0) is None
    assert LowestLoss(1.0).ratio(float("inf")) is None
    assert finite_or_none(float("-inf")) is None
    assert finite_or_none(2.5) == 2.5

"""The optimizer step: everything that happens to weights, moments, ledger and counters.

Nothing here writes a file or prints a line; `loop` does both around it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from lengthen.checkpoint.read import Checkpoint, State, Tensors
from lengthen.checkpoint.restore import build_model, load_moments, load_weights, tensors_of
from lengthen.checkpoint.train_state import TrainState, check_same_run
from lengthen.config.load import as_trained, with_overrides
from lengthen.config.schema import Config
from lengthen.core.custom_pacing import Custom
from lengthen.core.loss_ratio import OBSERVED_SEQUENCES, PROBE_SEQUENCES, finite_or_none, perplexity
from lengthen.core.pacing import Adaptive
from lengthen.core.schedule import Counters, StepPlan
from lengthen.core.shuffle import sub_seed
from lengthen.data.loader import MicroBatch, micro_batches
from lengthen.data.store import Store
from lengthen.data.stream import Step, StreamState, accumulation_steps
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.device import matmul_precision
from lengthen.distributed.memory import free_memory, is_out_of_memory
from lengthen.distributed.subnormals import flushes_subnormals
from lengthen.distributed.wrap import compile_blocks, no_sync_before, wrap
from lengthen.evaluation.loss import sequences_in, validation_loss
from lengthen.model.optim import build_optimizer, clip, set_step, update
from lengthen.run.environment import processor
from lengthen.run.records import EvalRecord, ObservationRecord, ProbeRecord, StepRecord
from lengthen.training.changes import going_on
from lengthen.training.inputs import StepInput, StepInputs
from lengthen.training.monitor import StabilityMonitor

T = TypeVar("T")


@dataclass(frozen=True)
class StepResult:
    """What the one host sync of a step brings back."""

    loss: float
    grad_norm: float
    finite: bool
    stop: bool
    measures: dict[str, Any]  # of the monitor, as the record has them


class Trainer:
    """A model in training: `step` advances it, `state` and `restore` carry it over a restart."""

    def __init__(
        self,
        config: Config,
        store: Store,
        context: DistributedContext,
        micro_tokens: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config, self.store, self.context = config, store, context
        self.micro_tokens = micro_tokens
        self._stop = stop
        self.model = build_model(config, context)
        if config.run.compile == "on":
            compile_blocks(self.model)
        self.module = wrap(self.model, context)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.monitor = StabilityMonitor(config.monitor, self.model, self.optimizer, context)
        self._updates = 0  # Adam's own count, so that no step must wait for it
        self.inputs = StepInputs(config, store, context)
        self.schedule = self.inputs.stream.schedule
        self.train_state = TrainState(Counters(), self.inputs.stream.start.ledger)

    def step(self) -> StepRecord | None:
        """Train on the next rows * length tokens, once; None where the budget is spent.

        A step whose loss or gradient is not finite leaves weights, moments and Adam's own count as
        they were; it advances counters and ledger all the same, and its record is not
        `finite`. Where memory runs out before the update, one process does the same step
        again in micro-batches of half the `micro_tokens`, which stay so.
        """
        now = self.train_state
        step = self.inputs.step_after(StreamState(now.counters, now.ledger))
        return None if step is None else self.train_on(step)

    def train_on(self, step: Step, micro_tokens: int | None = None) -> StepRecord:
        """Train on a step that follows the present one, as `step` does.

        In micro-batches of `micro_tokens` from here on, where they are given.
        """
        self.micro_tokens = micro_tokens or self.micro_tokens
        began = time.monotonic()
        now, plan = self.train_state, step.plan
        inputs = self.inputs.of(step)
        loss, grad_norm = self._halve_until_fits(lambda: self._gradients(inputs, plan))
        result = self._update(loss, grad_norm, step)
        self._updates += result.finite
        ratio = now.lowest.ratio(result.loss)
        self.train_state = replace(
            now,
            counters=step.after.counters,
            ledger=step.after.ledger,
            lowest=now.lowest.after(result.loss),
            seconds=now.seconds + time.monotonic() - began,
            skipped_tokens=now.skipped_tokens + (0 if result.finite else plan.tokens),
            skipped_in_a_row=0 if result.finite else now.skipped_in_a_row + 1,
            stop=result.stop,
        )
        return self._record(step, result, ratio)

    def _halve_until_fits(self, work: Callable[[], T]) -> T:
        """Do work that changes no state but gradients, in micro-batches halved until they fit.

        One process alone: of several ranks the others may wait in a collective for this one.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                smallest = self.config.model.length
                alone, halves = self.context.world_size == 1, self.micro_tokens > smallest
                if not (is_out_of_memory(error) and alone and halves):
                    raise
            # After the handler: the error's traceback keeps alive what the forward had computed.
            half = self.micro_tokens = max(smallest, self.micro_tokens // 2)
            self.config = with_overrides(self.config, {"batch": {"micro_tokens": half}})
            self.model.zero_grad(set_to_none=True)
            free_memory(self.context.device)

    def _gradients(self, inputs: StepInput, plan: StepPlan) -> tuple[Tensor, Tensor]:
        """Return the step's loss and the norm of its gradients before they were clipped."""
        device, drops = self.context.device, self.config.model.dropout > 0
        own = torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=drops)
        with self.context.keeps_casts(), own:  # a host's random numbers are left alone
            loss = self._accumulate(inputs, plan)
        return loss, clip(self.model.parameters(), self.config.optimizer.clip)

    def _accumulate(self, inputs: StepInput, plan: StepPlan) -> Tensor:
        """Return the step's mean loss over all ranks; its gradient is left on the model.

        Data parallel averages gradients over ranks: times the world's size that is a sum, and over
        the step's tokens a mean that no split into micro-batches or ranks can change.
        """
        scale, step = self.context.world_size / plan.tokens, self.train_state.counters.step
        rank, world_size, device = self.context.rank, self.context.world_size, self.context.device
        count = accumulation_steps(plan.rows, world_size, plan.length, self.micro_tokens)
        parts = micro_batches(inputs.batch, plan, rank, world_size, count)
        self.monitor.begin(step)
        # The loss, and whether a rank was asked to stop.
        total, done = torch.zeros(2, dtype=self.context.sum_dtype, device=device), 0
        for number, part in enumerate(parts):
            if self.config.model.dropout > 0:
                torch.manual_seed(sub_seed(self.config.run.seed, "dropout", step, rank, number))
            with no_sync_before(self.module, last=number == len(parts) - 1):
                rows = len(part.inputs) * (part.share > 0)
                own = (
                    side[done:][:rows] if side is not None and rows else None
                    for side in inputs.sides
                )
                total[0] += self.backward(part, scale, *own)
                done += rows
        if self.context.world_size > 1:
            total[1] = float(self._stop())
            self.context.all_reduce_sum(total)
        total[0] /= plan.tokens
        return total

    def backward(self, part: MicroBatch, scale: float, *sides: Tensor | None) -> Tensor:
        """Add the gradients of a micro-batch; return the sum of its losses, 0-d on the device."""
        # A rank without rows must still join its peers in the collectives of this micro-batch.
        weight = float(part.share > 0)
        with self.context.autocast(kept=not self.context.sharded):
            loss: Tensor = self.module(part.inputs, part.targets, *sides)
        self.monitor.take(counts=part.share > 0)
        torch.autograd.backward(loss * (scale * weight))
        return loss.detach() * weight

    def _update(self, total: Tensor, grad_norm: Tensor, step: Step) -> StepResult:
        loss = total[0]
        finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
        parents = self.config.run.parent_tokens or 0
        trained = parents + step.tokens - self.train_state.skipped_tokens
        set_step(self.optimizer, self.config.optimizer, step.plan, trained, self._updates + 1)
        update(self.optimizer, finite)
        # Data parallel without shards keeps its gradients inside its buckets.
        self.model.zero_grad(set_to_none=self.context.world_size == 1 or self.context.sharded)
        measures = self.monitor.measures(finite)
        values = torch.stack([loss, grad_norm, finite, total[1], *measures.values()])
        loss_, norm, finite_, stop, *measured = values.tolist()
        asked = stop > 0 or (self.context.world_size == 1 and self._stop())
        recorded = dict(zip(measures, map(finite_or_none, measured), strict=True))
        return StepResult(loss_, norm, finite_ > 0, asked, recorded)

    def _record(self, step: Step, result: StepResult, ratio: float | None) -> StepRecord:
        return StepRecord(
            **self._now(),
            length=step.plan.length,
            rows=step.plan.rows,
            loss=finite_or_none(result.loss),
            loss_ratio=ratio,
            grad_norm=finite_or_none(result.grad_norm),
            **result.measures,
            lr=step.plan.learning_rate,
            joined=step.joined,
            finite=result.finite,
        )

    def evaluate(self) -> EvalRecord | None:
        """Return the loss over the validation part; None where there is none, or a stop came."""
        measured = self._loss_over(self.config.evaluation.tokens)
        if measured is None:
            return None
        loss, fields = measured
        self.train_state = replace(self.train_state, evaluated=self.train_state.counters)
        return EvalRecord(**fields, perplexity=finite_or_none(perplexity(loss)))

    def probe(self) -> ProbeRecord | None:
        """Return the loss of the probe and its ratio to the lowest probe so far; or None."""
        measured = self._loss_over(PROBE_SEQUENCES * self.config.model.length)
        if measured is None:
            return None
        loss, fields = measured
        now, lowest = self.train_state, self.train_state.probe_lowest
        self.train_state = replace(now, probe_lowest=lowest.after(loss), probed=now.counters.step)
        return ProbeRecord(**fields, loss_ratio=lowest.ratio(loss))

    def observe(self) -> ObservationRecord | None:
        """Give an adaptive pacing the loss at its present length; None where a stop came.

        The loss is a sum over all ranks, the same bits on each, so all of them decide alike.
        """
        now, pacing = self.train_state.counters, self.schedule.pacing
        assert isinstance(pacing, Adaptive)
        before, length = now.adaptive or pacing.begin(), self.schedule.length(now)
        measured = self._loss_over(OBSERVED_SEQUENCES * self.config.model.length, length)
        if measured is None:
            return None
        loss, fields = measured
        counters = self.schedule.observed(now, loss)
        self.train_state = replace(self.train_state, counters=counters)
        calm, next_length = pacing.calm(before, loss), self.schedule.length(counters)
        return ObservationRecord(
            **fields,
            length=length,
            next_length=next_length,
            lowest=before.lowest,
            calm=calm,
            steps_at_length=now.step - before.since,
            forced=next_length != length and calm < pacing.patience,
        )

    def _loss_over(
        self, wanted: int, length: int | None = None
    ) -> tuple[float, dict[str, Any]] | None:
        """Return the validation loss over about `wanted` tokens, and the fields that records share.

        With `length` it is that of the fronts of so many sequences.
        """
        began = time.monotonic()
        full_length = self.config.model.length
        sequences = sequences_in(self.store.valid, full_length, wanted)
        if not sequences:
            return None
        loss = self._halve_until_fits(
            lambda: validation_loss(
                self.module,
                self.store.valid,
                sequences=sequences,
                full_length=full_length,
                length=length,
                separator=self.inputs.separator,
                rows=max(1, self.micro_tokens // full_length),
                context=self.context,
                stop=self._stop,
            )
        )
        if loss is None:
            self.train_state = replace(self.train_state, stop=True)
            return None
        tokens, seconds = sequences * (length or full_length), time.monotonic() - began
        side = {"side_tokens": tokens, "side_seconds": seconds}
        return loss, {**self._now(), "loss": finite_or_none(loss), **side}

    def _now(self) -> dict[str, Any]:
        now = self.train_state
        return {"step": now.counters.step, "tokens": now.counters.tokens, "seconds": now.seconds}

    def state_dict(self) -> State:
        """Return all that is no tensor, as JSON; with `tensors` it is the whole run."""
        pacing, steps = self.schedule.pacing, self.train_state.counters.step
        values = {"pacing_values": pacing.record(steps)} if isinstance(pacing, Custom) else {}
        return {
            **self.train_state.state(),
            "micro_tokens": self.micro_tokens,
            "store_id": self.store.id,
            "settings": as_trained(self.config),
            "numerics": self.numerics(),
            **values,
        }

    def numerics(self) -> dict[str, object]:
        """Return what the last digits depend on; equal records promise equal bits on a CPU."""
        return {
            "torch": torch.__version__,
            "processor": processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "flush_subnormals": flushes_subnormals(),
            "world_size": self.context.world_size,
            "device": self.context.device.type,
            "precision": self.context.precision,
            "matmul_precision": matmul_precision(self.context.device),
            "compile": self.config.run.compile,
            "sharded": self.context.sharded,
            "fused": bool(self.optimizer.defaults["fused"]),
            "micro_tokens": self.micro_tokens,
        }

    def tensors(self) -> dict[str, Tensors]:
        """Return the weights and moments that this rank saves, by parameter name.

        They change in place as it trains. Of a sharded run every rank has its own part.
        """
        return tensors_of(self.model, self.optimizer, self.context)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become the run that `checkpoint` was taken of.

        Raises SettingError for another model, CheckpointError for a state that is none of this run.
        """
        load_weights(self.model, checkpoint)
        self._updates = load_moments(self.optimizer, self.model, checkpoint)
        train_state = TrainState.from_state(checkpoint.state)
        check_same_run(train_state, self.inputs.stream.start.ledger)
        counters = going_on(self.schedule.pacing, train_state.counters, checkpoint.state)
        self.train_state = replace(train_state, counters=counters)

"""Length warmup in a loop of Accelerate: ready micro-batches that `prepare` leaves alone.

The loop stands in docs/integrations.md: `share` times a micro-batch's mean loss goes backward, and
`log_step` comes after every micro-batch.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lengthen.core.ledger import State
from lengthen.data.loader import MicroBatch
from lengthen.data.store import Store
from lengthen.data.stream import Step
from lengthen.integrations.data_plan import DataPlan, PlannedRates, check_store, learning_rates
from lengthen.integrations.host import ACCELERATE, check_processes
from lengthen.integrations.plain import BatchStream
from lengthen.integrations.run_log import Number, RunLog
from lengthen.util.errors import SettingError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["LengthenLoader"]

PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU")  # processes that average the gradients of whole models


class LengthenLoader:
    """Every micro-batch of this process, in order, on its device; and the record of the run.

    `accelerator.save_state` and `load_state` save and restore it; save between two steps.
    """

    def __init__(
        self,
        accelerator: "Accelerator",
        store: str | Path,
        plan: DataPlan,
        out: str | Path,
        *,
        overwrite: bool = False,
    ) -> None:
        """Read a store in a directory, and record the run in `out`, as RunLog does.

        Raises SettingError for an accelerator that would train on other tokens, DataError.
        """
        ACCELERATE.check()
        _check(accelerator)
        self._host = accelerator
        self._count: int = accelerator.gradient_accumulation_steps
        self._store, self._plan, self._out = Store.open(store), plan, out
        self._stream = BatchStream(
            self._store.train,
            plan,
            gradient_accumulation_steps=self._count,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        self._overwrite, self._steps = overwrite, plan.number_of_steps()
        self._log: RunLog | None = None  # the main process's, while it trains
        self._saved: State | None = None  # the log's, where it has none
        self._step: Step | None = None  # the last one that was begun
        self._started = self._logged = self._count  # micro-batches of that step
        self._updates = 0  # steps whose last micro-batch was handed out
        self._losses: list[Tensor] = []  # of its micro-batches
        self._scheduled = False
        accelerator.register_for_checkpointing(self)

    def __len__(self) -> int:
        """Return how many micro-batches the budget has for this process."""
        return self._steps * self._count

    def __iter__(self) -> Iterator[MicroBatch]:
        """Yield what is left of the budget; `share` times a mean loss is what to go backward from.

        Backward divides by the micro-batches and processes average: the share makes up for both.
        """
        device, scale = self._host.device, self._count * self._host.num_processes
        self._check_between_steps()
        if self._log is None and self._host.is_main_process:
            given: Any = {"store": self._store, "saved": self._saved, "overwrite": self._overwrite}
            self._log = RunLog(self._out, self._plan, **given)
        for step, parts in self._stream:
            self._step = step
            self._losses.clear()
            for number, part in enumerate(parts, start=1):
                self._started, self._logged = number, number - 1
                self._updates += number == self._count
                inputs, targets = part.inputs.to(device), part.targets.to(device)
                yield MicroBatch(inputs, targets, part.length, part.share * scale)
                self._check_logged()

    def close(self) -> None:
        """Close the record, as that of a run which has ended where its budget is spent."""
        if self._log is None:
            return
        self._saved = self._log.state_dict()
        ended = self._updates == self._steps and self._logged == self._started
        (self._log.finish if ended else self._log.close)()
        self._log = None

    def lr_scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """Return the plan's learning rates as a scheduler, to be prepared or not.

        A prepared one is stepped once for every process: it goes by the steps of this loader.
        """
        self._scheduled, rates = True, learning_rates(self._plan.schedule)
        return PlannedRates(optimizer, lambda _: rates(self._updates))

    def log_step(self, loss: Tensor, grad_norm: Number | None, optimizer: Optimizer) -> None:
        """Count a micro-batch as trained: its loss as it went backward, the norm before clipping.

        The norm counts after a step's last micro-batch alone, and there the run gets its line.
        Raises SettingError where the accelerator updates in the middle of a step, or not at its
        end.
        """
        last = self._started == self._count
        if self._host.sync_gradients != last:
            rule = f"must update after micro-batch {self._count} of a step, and only then"
            hint = "use accelerator.accumulate(model), and leave gradient_accumulation_steps"
            self._refuse("sync_gradients", f"{rule}; this is {self._started}", hint)
        self._logged = self._started
        self._losses.append(loss.detach())
        if not last:
            return
        total: Any = self._host.reduce(sum(self._losses), "sum")
        if self._log is not None:
            self._record(float(total), grad_norm, optimizer)

    def _record(self, total: float, grad_norm: Number | None, optimizer: Optimizer) -> None:
        assert self._step is not None
        assert self._log is not None
        group, rate = optimizer.param_groups[0], None
        if self._scheduled:  # which may have gone on to the next step's
            rate = group["initial_lr"] * self._step.plan.learning_rate
        loss = total / (self._count * self._host.num_processes)
        norm: Any = grad_norm  # None is refused there
        self._log.step(self._step, loss=loss, grad_norm=norm, optimizer=optimizer, rate=rate)

    def log_evaluation(self, loss: Number, **side: Number) -> None:
        """Record a validation loss, as `RunLog.evaluation` does; the main process has the log."""
        if self._log is not None:
            self._log.evaluation(loss, **side)

    def state_dict(self) -> State:
        """Return where it stands between two steps; raises SettingError in the middle of one."""
        self._check_between_steps()
        log = self._log.state_dict() if self._log else self._saved
        return {"store_id": self._store.id, "stream": self._stream.state_dict(), "log": log}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; raises SettingError for another plan or store."""
        check_store(state["store_id"], self._store.id)
        self.close()  # of what was trained since
        self._stream.load_state_dict(state["stream"])
        self._saved, self._updates = state["log"], state["stream"]["counters"]["step"]
        self._started = self._logged = self._count  # a step that was given up is none
        self._host.step = 0  # its count of micro-batches, of which steps may have had others

    def _check_logged(self) -> None:
        if self._logged != self._started:
            rule = "must be called after every micro-batch, before the next one and before a save"
            self._refuse("log_step", rule, "loader.log_step(loss, norm, optimizer)")

    def _check_between_steps(self) -> None:
        self._check_logged()
        if self._started != self._count:
            rule = f"must come after the last of a step's {self._count} micro-batches"
            self._refuse("save_state", rule, "save where accelerator.sync_gradients is true")

    def _refuse(self, name: str, rule: str, hint: str) -> NoReturn:
        self.close()
        raise SettingError(name, rule, None, hint)


def _check(host: "Accelerator") -> None:
    """Raise SettingError for an accelerator that would train on other tokens than the plan's."""
    if not hasattr(host, "distributed_type"):
        raise SettingError("accelerator", "must be an Accelerator", host)
    if (kind := host.distributed_type.value) not in PLAIN:
        rule = "must be data parallel alone: sharded and parallel models are not supported yet"
        raise SettingError("distributed_type", rule, kind, f"one of {', '.join(PLAIN)}")
    if host.mixed_precision not in ("no", "bf16"):
        rule = "must be 'no' or 'bf16': an update that a scaler leaves out would count as trained"
        raise SettingError("mixed_precision", rule, host.mixed_precision)
    if getattr(host, "parallelism_config", None):
        rule = "must be absent: tensor, context and sequence parallelism are not supported yet"
        raise SettingError("parallelism_config", rule)
    check_processes(host.num_processes, "on processors, give Accelerator(cpu=True)")

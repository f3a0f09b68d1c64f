"""The rank and the device of this process, and the collectives between ranks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}  # of the weights


@dataclass(frozen=True)
class DistributedContext:
    """The device and the rank that this process computes on."""

    device: torch.device
    precision: str = "fp32"
    rank: int = 0
    world_size: int = 1
    sharded: bool = False  # every rank has a part of each weight and moment, not all of it
    group: dist.ProcessGroup | None = None  # of the collectives; None: the default one
    background_group: dist.ProcessGroup | None = None  # for collectives beside training

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; bf16 computes in bfloat16 on float32 weights."""
        return DTYPES[self.precision]

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes the run's files and prints."""
        return self.rank == 0

    @property
    def sum_dtype(self) -> torch.dtype:
        """Of sums of losses: float64, where the device has it."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @contextmanager
    def autocast(self, *, kept: bool = False) -> Iterator[None]:
        """Enter the context of a forward pass, whatever that of a host program is.

        `kept` leaves the casts of its weights to the passes that follow, within `keeps_casts`.
        """
        with ExitStack() as stack:
            stack.enter_context(self._autocast(enabled=self.precision == "bf16"))
            if not kept:
                # They go with the outermost context alone, and that may be the host's.
                stack.callback(torch.clear_autocast_cache)
            yield

    @contextmanager
    def keeps_casts(self) -> Iterator[None]:
        """Enter the context of a step, whose forward passes share one cast of each weight.

        Shards are cast in every pass: what is kept would be the whole model.
        """
        with ExitStack() as stack:
            stack.enter_context(self._autocast(enabled=False))
            stack.callback(torch.clear_autocast_cache)
            yield

    def _autocast(self, *, enabled: bool) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def for_background(self) -> "DistributedContext":
        """Return the context of a thread that works beside training, with a group of its own."""
        return replace(self, device=torch.device("cpu"), group=self.background_group)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all ranks, in place; every rank gets the same bits."""
        if self.world_size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def all_reduce_max(self, value: Tensor) -> Tensor:
        """Turn a tensor into the largest of the ranks' values, in place."""
        if self.world_size > 1:
            dist.all_reduce(value, dist.ReduceOp.MAX, group=self.group)
        return value

    def all_reduce_min(self, value: int) -> int:
        """Return the smallest of the ranks' values, on every rank."""
        if self.world_size == 1:
            return value
        smallest = torch.tensor(value, device=self.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN, group=self.group)
        return int(smallest)

    def any_rank(self, here: bool) -> bool:
        """Return on every rank whether `here` is true on one of them."""
        return here if self.world_size == 1 else self.all_reduce_min(int(not here)) == 0

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self.all_reduce_min(0)

    def broadcast(self, value: int) -> int:
        """Return rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        dist.broadcast(shared, 0, group=self.group)
        return int(shared)

    def all_gather(self, values: Sequence[int]) -> list[list[int]]:
        """Return every rank's `values`, equally many on each, by rank."""
        if self.world_size == 1:
            return [list(values)]
        mine = torch.tensor(values, device=self.device)
        every = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(every, mine, group=self.group)
        return [each.tolist() for each in every]

    def all_gather_text(self, text: str) -> list[str]:
        """Return every rank's text, by rank."""
        data = text.encode(errors="backslashreplace")
        sizes = [size for (size,) in self.all_gather([len(data)])]
        padding = [0] * (max(sizes) + 1 - len(data))
        rows = self.all_gather([*data, *padding])
        return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


SINGLE_PROCESS = DistributedContext(torch.device("cpu"))

"""Where a process of a run computes: precision, ranks, and how much fits into one forward pass."""

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from lengthen.config.schema import Run
from lengthen.distributed.hardware import device_of, must_have, variable
from lengthen.model.gpt import GPT
from lengthen.util.errors import MemoryLimitError, PeerError

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}  # of the weights
# What an error says that is no torch.OutOfMemoryError: a processor's allocator has no class for it,
# nor have CUDA and its libraries for what they take beside PyTorch's allocator.
NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)
MMAP_THRESHOLD, LARGE = -3, 2**16  # M_MMAP_THRESHOLD of the C library's mallopt; bytes
# Groups that we have left. Their end is put off to that of the process: torch 2.13 joins gloo's
# threads in it while it holds the interpreter's lock, for which one of them may still be waiting.
_left: list[object] = []


@dataclass(frozen=True)
class DistributedContext:
    """The device and the rank that this process computes on."""

    device: torch.device
    precision: str = "fp32"
    rank: int = 0
    world_size: int = 1
    sharded: bool = False  # every rank holds a part of each weight and moment, not all of it
    group: dist.ProcessGroup | None = None  # whom it meets; None: all, where training meets too
    background_group: dist.ProcessGroup | None = None  # for meetings beside training

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; bf16 computes in bfloat16 on float32 weights."""
        return DTYPES[self.precision]

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank writes and speaks for all."""
        return self.rank == 0

    @property
    def sum_dtype(self) -> torch.dtype:
        """Of sums of losses: float64, where the device has it."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context a forward pass runs in."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def for_background(self) -> "DistributedContext":
        """Return the place of work that goes on beside training: it meets others by themselves."""
        return replace(self, device=torch.device("cpu"), group=self.background_group)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all ranks, in place; every rank gets the same bits."""
        if self.world_size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def any_rank(self, here: bool) -> bool:
        """Return on every rank whether `here` holds on one of them."""
        return here if self.world_size == 1 else self.all_reduce_min(int(not here)) == 0

    def broadcast(self, value: int) -> int:
        """Return the first rank's value, on every rank."""
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

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self.all_reduce_min(0)

    def all_reduce_min(self, value: int) -> int:
        """Return the smallest of the ranks' values, on every rank."""
        if self.world_size == 1:
            return value
        smallest = torch.tensor(value, device=self.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN, group=self.group)
        return int(smallest)


SINGLE_PROCESS = DistributedContext(torch.device("cpu"))


@contextmanager
def join_process_group(run: Run) -> Iterator[DistributedContext]:
    """Join the ranks that the launcher started, if any, and leave them again at the end."""
    device = device_of(run.device)
    must_have(device, run)
    if run.recompute and device.type == "cpu":
        free_at_once()
    world_size = variable("WORLD_SIZE", 1)
    if world_size == 1:
        yield DistributedContext(device, run.precision)
        return
    rank = variable("RANK")
    try:
        with _process_group(
            device, rank, world_size, timedelta(seconds=run.timeout_seconds)
        ) as background:
            yield DistributedContext(
                device, run.precision, rank, world_size, run.sharded, background_group=background
            )
    except RuntimeError as error:
        if not is_peer_lost(error):
            raise
        way_on = "if that one could, it said why; run the command again"
        raise PeerError(f"rank {rank} lost another rank, or never met it; {way_on}") from error


@contextmanager
def _process_group(
    device: torch.device, rank: int, world_size: int, timeout: timedelta
) -> Iterator[dist.ProcessGroup]:
    """Meet the other ranks until the block ends; give the group for work beside training."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = _meeting_place(timeout)
    dist.init_process_group(backend, timeout=timeout, world_size=world_size, rank=rank, store=store)
    background = dist.new_group(backend="gloo", timeout=timeout)
    try:
        yield background
    finally:
        _left.extend((dist.group.WORLD, background))
        dist.destroy_process_group()


def free_at_once() -> None:
    """Have this process give back every large block of memory as soon as it is free.

    glibc's heap would keep so many of them, in pieces that fit nothing, that recomputing saved
    little. It costs a little time, which who recomputes has said to give for memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt:
        mallopt(MMAP_THRESHOLD, LARGE)


def _meeting_place(timeout: timedelta) -> Store:
    """Return where ranks find each other, apart from where they did before a restart.

    After one, torch 2.13's launcher gives them the store of the last time, old addresses included:
    who reads one before its owner has written the new one waits for a process that is no more.
    """
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    return PrefixStore(f"attempt-{variable('TORCHELASTIC_RESTART_COUNT')}", store)


def wrapped(model: GPT, context: DistributedContext) -> nn.Module:
    """Return what the trainer calls: the model itself, or its data-parallel wrapping.

    Sharded, the model's parameters become DTensors in place, cut along their first dimension.
    """
    if not context.sharded:
        alone = context.world_size == 1
        return model if alone else DistributedDataParallel(model, gradient_as_bucket_view=True)
    mesh = init_device_mesh(context.device.type, (context.world_size,))
    for part in (*model.blocks, model):  # from the leaves up: what is left over is the root's
        fully_shard(part, mesh=mesh)
    return model


def without_sync(module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Return the context of one backward pass: gradients travel between ranks in the last only."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def let_go(module: nn.Module) -> None:
    """Drop what passes without a backward left whole on this rank; its shards stay."""
    if isinstance(module, FSDPModule):
        module.reshard()


def fit_check(whole: int, full_length: int, fits: Callable[[int], bool]) -> int:
    """Return the tokens of one forward pass: the whole step if it fits, else halved until it does.

    `fits` is asked with numbers of tokens that are multiples of `full_length`. Raises
    MemoryLimitError where not even one full row fits.
    """
    rows = max(1, whole // full_length)
    while not fits(rows * full_length):
        if rows == 1:
            message = f"out of memory: one row of model.length ({full_length}) does not fit"
            raise MemoryLimitError(f"{message}; choose a smaller model or a shorter length")
        rows = -(-rows // 2)
    return rows * full_length


def is_peer_lost(error: RuntimeError) -> bool:
    """Return whether a collective failed because another rank is gone, or the network is."""
    lost = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting")
    return isinstance(error, dist.DistError) or any(text in str(error) for text in lost)


def is_time_out(error: RuntimeError) -> bool:
    """Return whether a lost peer was only silent for too long."""
    return "Timed out waiting" in str(error)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch ran out of memory; only a GPU's allocator has a class for it."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(one in text for one in NO_MEMORY)


def free_memory(context: DistributedContext) -> None:
    """Give back what nobody uses any more, so that the next try finds it."""
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
    elif context.device.type == "mps":
        torch.mps.empty_cache()

"""Where a run computes: device, precision, ranks, and how much fits into one forward pass."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lengthen.config import Run
from lengthen.errors import MemoryLimitError, SettingError

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}  # of the weights
USABLE = 0.8  # share of a CPU's free memory that a step may be planned to take
CGROUP = Path("/sys/fs/cgroup/memory.max")
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Place:
    """The device and the rank that this process computes on."""

    device: torch.device
    precision: str = "fp32"
    rank: int = 0
    world: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; bf16 computes in bfloat16 on float32 weights."""
        return DTYPES[self.precision]

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and speaks for all."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context a forward pass runs in."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all ranks, in place; every rank gets the same bits."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def least(self, value: int) -> int:
        """Return the smallest of the ranks' values, on every rank."""
        if self.world == 1:
            return value
        smallest = torch.tensor(value, device=self.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return int(smallest)


@contextmanager
def placed(run: Run) -> Iterator[Place]:
    """Join the ranks that the launcher started, if any, and leave them again at the end."""
    device = _device(run.device)
    if run.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise SettingError("run.precision", "this GPU has no bfloat16", run.precision)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Place(device, run.precision)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(device, run.precision, dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


def _device(setting: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if setting == "cuda" and not has_cuda:
        rule, way_out = "PyTorch finds no GPU here", 'set "cpu" or "auto"'
        raise SettingError("run.device", rule, setting, way_out)
    if setting == "cpu" or not has_cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def wrapped(model: nn.Module, place: Place) -> nn.Module:
    """Return what the trainer calls: the model itself, or its data-parallel wrapping."""
    if place.world == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def without_sync(module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Return the context of one backward pass: gradients travel between ranks in the last only."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


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


def cpu_memory_limit() -> int:
    """Return the bytes that this process may still take: what is free, or what its group has."""
    limits = []
    if MEMINFO.exists():
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    if CGROUP.exists() and (text := CGROUP.read_text().strip()).isdigit():
        limits.append(int(text))
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # ranks that share this memory
    return int(min(limits, default=2**33) * USABLE) // beside


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it, others count them all
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def gpus() -> int:
    """Return the number of GPUs that PyTorch sees."""
    return torch.cuda.device_count()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch ran out of memory; a CPU's allocator says so in its text alone."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)

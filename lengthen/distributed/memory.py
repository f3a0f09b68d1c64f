"""How much fits: limits of memory, the peak of a training, and the tokens of a micro-batch.

PyTorch is imported where a device is asked, so that planning for a CPU does without it.
"""

import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lengthen.config.schema import Config
from lengthen.distributed.device import device_here, launcher_variable
from lengthen.model import cost
from lengthen.util.errors import MemoryLimitError

if TYPE_CHECKING:
    import torch

# Of a micro-batch on a processor: for each width and length the fastest within one per cent
# (`benchmarks.shapes`), and more take more memory.
CPU_MICRO_TOKENS = 2048
USABLE = 0.8  # share of a CPU's free memory that a step may be planned to take
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # that limit processes
MEMINFO = Path("/proc/meminfo")
# What an error says that is no torch.OutOfMemoryError: a processor's allocator has no class for it,
# nor have CUDA and its libraries for what they take beside PyTorch's allocator.
NO_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)
MMAP_THRESHOLD, LARGE = -3, 2**16  # M_MMAP_THRESHOLD of the C library's mallopt; bytes


def memory_limit(device: "torch.device") -> int:
    """Return the bytes that this process may still take on a device."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return cpu_memory_limit()


def cpu_memory_limit() -> int:
    """Return the bytes that this process may still take: what is free, or what its groups have."""
    limits = list(_group_limits())
    if MEMINFO.exists():
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    ranks = launcher_variable("LOCAL_WORLD_SIZE", 1)  # that share this memory
    return int(min(limits, default=2**33) * USABLE) // ranks


def _group_limits() -> Iterator[int]:
    """Yield the bytes of each control group around this process that has a limit."""
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else ():
        _, kind, group = line.split(":", 2)
        # Version 1 has a tree for each kind.
        root, name = (GROUPS / kind, "memory.limit_in_bytes") if kind else (GROUPS, "memory.max")
        path = root / group.lstrip("/")
        for file in (folder / name for folder in (path, *path.parents)):
            if file.is_file() and (text := file.read_text().strip()).isdigit():
                yield int(text)


def memory_of(config: Config, micro_tokens: int) -> int:
    """Return the bytes that training takes at its peak, with so many tokens in a micro-batch."""
    doubled = 2 if config.run.precision == "fp64" else 1
    whole = cost.memory(config.model, micro_tokens, recompute=config.run.recompute)
    if config.optimizer.kind == "muon":  # which keeps one moment of the matrices
        whole -= cost.FLOAT * cost.matrices(config.model)
    return doubled * whole + mask_of(config, micro_tokens)


def mask_of(config: Config, micro_tokens: int) -> int:
    """Return the bytes of these that are a document mask, which all layers share; 0 without one."""
    size = cost.FLOAT * (2 if config.run.precision == "fp64" else 1)
    masks = config.data.documents == "mask"
    return masks * size * micro_tokens * config.model.length


def fit_check(whole: int, full_length: int, fits: Callable[[int], bool]) -> int:
    """Return the tokens of a micro-batch: the whole step if it fits, else halved until it does.

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


def auto_micro_tokens(config: Config) -> int:
    """Return the tokens of a micro-batch that "auto" comes to for one process on this machine.

    On a GPU they are estimated from its free memory, where `train` tries them. A plan is also made
    for a larger machine: too little memory gives one row, and a processor has enough.
    """
    if config.run.device == "cpu" or (device := device_here(config.run.device)).type == "cpu":
        return micro_tokens_within(config, limit=None)
    length, limit = config.model.length, memory_limit(device)
    try:
        whole = config.batch.rows * length
        return fit_check(whole, length, lambda size: memory_of(config, size) <= limit)
    except MemoryLimitError:
        return length


def micro_tokens_within(config: Config, limit: int | None, world_size: int = 1) -> int:
    """Return the tokens of a micro-batch on a CPU with `limit` bytes, None meaning any number.

    Raises MemoryLimitError where not one row fits.
    """
    length = config.model.length
    whole = min(-(-config.batch.rows // world_size) * length, max(length, CPU_MICRO_TOKENS))
    if limit is None:
        return max(1, whole // length) * length
    return fit_check(whole, length, lambda size: memory_of(config, size) <= limit)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch ran out of memory; only a GPU's allocator has a class for it."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(one in text for one in NO_MEMORY)


def free_memory(device: "torch.device") -> None:
    """Give back memory that nothing uses any more, so that the next try finds it."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def free_large_blocks_at_once() -> None:
    """Have this process give back every large block of memory as soon as it is freed.

    glibc's heap would keep so many of them, in pieces, that recomputing saved little.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt:
        mallopt(MMAP_THRESHOLD, LARGE)

"""How much fits: bytes of a training at its peak, and the tokens of a micro-batch."""

from lengthen.config.schema import Config
from lengthen.distributed.context import fit_check
from lengthen.distributed.hardware import device_here, memory_limit
from lengthen.model import cost
from lengthen.util.errors import MemoryLimitError

CPU_PASS = 4096  # tokens of a pass on a processor: larger ones fall out of its caches


def memory_of(config: Config, micro_tokens: int) -> int:
    """Return the bytes that training takes at its peak, with so many tokens in a pass."""
    doubled = 2 if config.run.precision == "fp64" else 1
    return doubled * cost.memory(config.model, micro_tokens, recompute=config.run.recompute)


def auto_micro_tokens(config: Config) -> int:
    """Return the tokens of a pass that "auto" comes to for one process on this machine.

    On a GPU they are foretold from its free memory, where `train` tries them; too little of it for
    one row gives one row, since a plan is also made for a larger machine. So a processor is taken
    to have enough.
    """
    device = device_here(config.run.device)
    if device.type == "cpu":
        return micro_tokens_within(config, limit=None)
    length, limit = config.model.length, memory_limit(device)
    try:
        whole = config.batch.rows * length
        return fit_check(whole, length, lambda size: memory_of(config, size) <= limit)
    except MemoryLimitError:
        return length


def micro_tokens_within(config: Config, limit: int | None, world_size: int = 1) -> int:
    """Return the tokens of a pass on a CPU with `limit` bytes, None meaning any number.

    Raises MemoryLimitError where not one row fits.
    """
    length = config.model.length
    whole = min(-(-config.batch.rows // world_size) * length, max(length, CPU_PASS))

    def fits(size: int) -> bool:
        return limit is None or memory_of(config, size) <= limit

    return fit_check(whole, length, fits)

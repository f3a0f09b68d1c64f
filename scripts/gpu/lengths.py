"""Seconds a token by length: GPT-2 117M's layers, equally many tokens in every step.

A step is the trainer's own, in one pass, in bfloat16; the first two of a length are not counted.
"""

import time
from collections.abc import Iterator
from statistics import median

import torch

from benchmarks.rivals import Case
from benchmarks.step import configuration
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.memory import is_out_of_memory
from lengthen.model import cost
from lengthen.training.calibrate import StepSeconds, real_steps
from scripts.gpu.parts import Call, called

LONGEST, SHORTEST = 32_768, 64
WARM_UPS, TIMED = 2, 7  # steps of a length


def case_of(call: Call, positions: int) -> Case:
    """Return the model and the place of a part: GPT-2 117M in bfloat16, in a rehearsal a dwarf."""
    context = DistributedContext(torch.device(call.device), "bf16")
    if call.rehearse:
        return Case(2, 32, 2, 512, positions, context)
    return Case(12, 768, 12, 50_257, positions, context)


def lengths(shortest: int, longest: int) -> Iterator[int]:
    """Yield the lengths, each twice the one before."""
    while shortest <= longest:
        yield shortest
        shortest *= 2


def measured(call: Call, longest: int) -> None:
    """Write a line of figures for each length: tokens of the longest one in every step."""
    config = configuration(case_of(call, longest), longest, longest)
    step_seconds = real_steps(config, longest, longest // SHORTEST, case_of(call, longest).context)
    for length in lengths(SHORTEST, longest):
        rows = longest // length
        try:
            seconds = timed(step_seconds, rows, length)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            call.write(length=length, rows=rows, out_of_memory=True)
            continue
        flops = cost.flops(config.model, rows, length)
        call.write(
            length=length,
            rows=rows,
            seconds=seconds,
            tokens_per_second=rows * length / median(seconds),
            flops_per_second=flops / median(seconds),
            peak_bytes=peak(call),
        )


def timed(step_seconds: StepSeconds, rows: int, length: int) -> list[float]:
    """Return the seconds of some steps of a shape, each of one pass."""
    for _ in range(WARM_UPS):
        step_seconds(rows, length, rows * length)
    return [step_seconds(rows, length, rows * length) for _ in range(TIMED)]


def peak(call: Call) -> int | None:
    """Return the most bytes of the GPU that tensors have held since the last call."""
    if call.device != "cuda":
        return None
    found = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return found


if __name__ == "__main__":
    began = time.monotonic()
    measured(called(), 512 if called().rehearse else LONGEST)
    print(f"{time.monotonic() - began:.0f} s")

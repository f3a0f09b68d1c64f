"""Time real steps of the trainer at each length, equally many tokens in every step."""

import json
import time
from collections.abc import Iterator
from statistics import median

import torch

from lengthen.config.schema import Config
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.device import described
from lengthen.distributed.memory import free_memory, is_out_of_memory
from lengthen.experiments.compare.seconds import SecondsTable, read_seconds
from lengthen.model import cost
from lengthen.training.calibrate import TimedStep, real_steps
from scripts.gpu.parts import Call

WARM_UPS, TIMED, LEAST = 2, 7, 3  # rounds: not counted, counted, counted whatever the time
Taken = dict[int, list[float]]  # seconds of the counted steps, by length


def lengths(shortest: int, longest: int) -> Iterator[int]:
    """Yield the lengths, each twice the one before."""
    while shortest <= longest:
        yield shortest
        shortest *= 2


def peak(call: Call) -> int | None:
    """Return the most bytes of the GPU that tensors have held since the last call."""
    if call.device != "cuda":
        return None
    found = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return found


def seconds_by_length(
    call: Call, name: str, config: Config, shortest: int, passes: int, seconds: float
) -> SecondsTable:
    """Return the median seconds a token at each length, and write them to NAME.json.

    Lengths take turns, in rounds that end after about `seconds`; one that does not fit into memory
    is left out. The file is there after the third counted round.
    """
    context = DistributedContext(torch.device(call.device), "bf16")
    tokens = config.batch.rows * config.model.length
    step_seconds = real_steps(config, passes, tokens // shortest, context)
    taken: Taken = {length: [] for length in lengths(shortest, config.model.length)}
    file = call.folder / f"{name}.json"
    facts = {"format": 1, "device": described(context.device), "model": config.model.model_dump()}
    began = time.monotonic()
    for number in range(1, WARM_UPS + TIMED + 1):
        _one_round(call, step_seconds, taken, tokens, passes)
        if number <= WARM_UPS:
            taken = {length: [] for length in taken}
        elif number - WARM_UPS >= LEAST:
            found = {length: median(each) / tokens for length, each in taken.items()}
            file.write_text(json.dumps({**facts, "seconds_per_token": found}, indent=1) + "\n")
            if time.monotonic() - began > seconds:
                break
    for length, each in taken.items():
        flops = cost.flops(config.model, tokens // length, length) / median(each)
        of_step = {"tokens": tokens, "micro_tokens": passes, "flops_per_second": flops}
        call.write(model=name, length=length, step_seconds=each, **of_step)
    call.write(model=name, peak_bytes=peak(call))
    return read_seconds(file)


def _one_round(call: Call, step_seconds: TimedStep, taken: Taken, tokens: int, passes: int) -> None:
    for length in tuple(taken):
        try:
            taken[length].append(step_seconds(tokens // length, length, passes))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            del taken[length]
            call.write(length=length, out_of_memory=True)
            free_memory(torch.device(call.device))

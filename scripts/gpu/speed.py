"""Tokens per second at GPT-2 117M: the trainer's whole step against loops that do less.

`benchmarks.step` has the contenders: the bare loop around our own model, Transformers' GPT-2, and
litgpt where it is installed. All in bfloat16, at equal tokens a step and a pass, in rounds.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from unittest.mock import patch

import torch

from benchmarks import rivals
from benchmarks.measure import figure, ratio, seconds_in_rounds
from benchmarks.step import Step, configuration, logged
from lengthen.config import load as settings
from lengthen.distributed.context import DistributedContext
from lengthen.model import loss as model
from lengthen.training.calibrate import random_store
from lengthen.training.trainer import Trainer
from scripts.gpu.parts import Call, called
from scripts.gpu.seconds import peak

LENGTHS = (1024, 64, 256)  # what matters most first
TOKENS, PASS_TOKENS = 65_536, 16_384
ROUNDS = 10
LARGER_CHUNK = 4096  # tokens whose logits exist at a time; ours is what suits a processor's caches
LEAST_TO_COMPILE = 45.0  # seconds that must be left

Made = Callable[[], Step]


def case_of(call: Call, positions: int) -> rivals.Case:
    """Return the model and the device: GPT-2 117M in bfloat16, in a rehearsal a small one."""
    context = DistributedContext(torch.device(call.device), "bf16")
    if call.rehearse:
        return rivals.Case(2, 32, 2, 512, positions, context)
    return rivals.Case(12, 768, 12, 50_257, positions, context)


def ours(call: Call, length: int, tokens: int, *, compiled: bool = False) -> Step:
    """Return one step of the trainer, log and monitor on."""
    case = case_of(call, length)
    config = configuration(case, length, tokens)
    config = settings.with_overrides(config, {"run": {"compile": "on" if compiled else "off"}})
    store = random_store(config.model, config.batch.rows)
    size = max(length, tokens * PASS_TOKENS // TOKENS)
    return logged(Trainer(config, store, case.context, size), call.folder)


def contenders(call: Call, length: int, tokens: int) -> dict[str, Made]:
    """Return what makes each contender, by name."""
    case, size = case_of(call, length), max(length, tokens * PASS_TOKENS // TOKENS)
    made: dict[str, rivals.Made] = {"bare": rivals.bare}
    if find_spec("transformers"):
        made["transformers"] = rivals.transformers
    if find_spec("litgpt"):
        made["litgpt"] = partial(rivals.litgpt, chunked=True)
    theirs = {
        name: partial(rivals.ready, one, tokens, length, size, case) for name, one in made.items()
    }
    return {"ours": partial(ours, call, length, tokens), **theirs}


def table(call: Call, tokens: int, rounds: int) -> None:
    """Write a line of figures for each length and contender."""
    for length in LENGTHS:
        steps = {name: make() for name, make in contenders(call, length, tokens).items()}
        peak(call)
        seconds = seconds_in_rounds(steps, rounds)
        most = peak(call)  # which the next look no longer knows
        for name, taken in seconds.items():
            found = figure([tokens / each for each in taken])
            faster = ratio(taken, seconds["ours"])
            figures = {"tokens_per_second": vars(found), "ours_times_faster": vars(faster)}
            call.write(length=length, contender=name, **figures, peak_bytes_of_all=most)


def in_larger_chunks(step: Step) -> Step:
    """Return the step with its loss in larger chunks."""

    def run() -> None:
        with patch.object(model, "CHUNK", LARGER_CHUNK):
            step()

    return run


def chunked(call: Call, tokens: int, rounds: int) -> None:
    """Write what larger chunks of the loss come to, beside ours."""
    steps = {"ours": ours(call, LENGTHS[0], tokens)}
    steps[f"ours, chunks of {LARGER_CHUNK}"] = in_larger_chunks(steps["ours"])
    for name, taken in seconds_in_rounds(steps, rounds).items():
        found = figure([tokens / each for each in taken])
        call.write(length=LENGTHS[0], contender=name, tokens_per_second=vars(found))


def compiled(call: Call, tokens: int, rounds: int) -> None:
    """Write the same of the compiled trainer: last, since compiling takes long."""
    step = ours(call, LENGTHS[0], tokens, compiled=True)
    began = time.monotonic()
    step()
    first = time.monotonic() - began
    taken = seconds_in_rounds({"ours": step}, rounds)["ours"]
    found = figure([tokens / each for each in taken])
    figures = {"tokens_per_second": vars(found), "first_step_seconds": first}
    call.write(
        length=LENGTHS[0], contender="ours, compiled", **figures, peak_bytes_of_all=peak(call)
    )


def main(call: Call) -> None:
    """Measure."""
    began = time.monotonic()
    tokens, rounds = (2048, 2) if call.rehearse else (TOKENS, ROUNDS)
    table(call, tokens, rounds)
    chunked(call, tokens, rounds)
    if call.seconds - (time.monotonic() - began) > LEAST_TO_COMPILE and not call.rehearse:
        compiled(call, tokens, rounds)


if __name__ == "__main__":
    main(called())

"""What a configuration will cost, before it runs; trains nothing."""

import time
from collections import Counter
from dataclasses import dataclass

import torch

from lengthen import cost
from lengthen.bind import open_store, with_store
from lengthen.clock import Clock, Schedule, steps
from lengthen.config import Config, parse_count
from lengthen.devices import fit_check
from lengthen.errors import SettingError
from lengthen.ledger import Ledger, reuse_spacing

CPU_PASS = 4096  # tokens of a pass on a processor: larger ones fall out of its caches
UTILISATION = 0.7  # of the matrix-product peak that a training step reaches


@dataclass(frozen=True)
class Plan:
    """The run that a configuration gives."""

    steps: int
    tokens: int
    short_of_budget: int  # tokens; less than one row
    lengths: dict[int, int]  # steps at each length
    shapes: int  # different (rows, length)
    full_from: int | None  # first step at full length; None where there is none
    tokens_before_full: int
    parameters: int
    flops: float  # forward and backward of the whole run
    memory: int  # bytes, at full length
    micro_tokens: int
    unread: int | None  # tokens of the last pass that stay unread; None without a store
    passes: float | None  # times the corpus; None without a store


def plan(config: Config, micro_tokens: int, sequences: int | None = None) -> Plan:
    """Work out a run step by step, with the schedule and the ledger that the trainer uses.

    `sequences` is N of the store, which leftovers and passes need.
    """
    schedule = config.schedule(sequences)
    shapes: Counter[tuple[int, int]] = Counter()
    full_from, tokens_before_full = None, 0
    end = Clock()
    for clock, shape in steps(schedule):
        shapes[shape.rows, shape.length] += 1
        if full_from is None and shape.length == schedule.full_length:
            full_from, tokens_before_full = clock.step, clock.tokens
        end = schedule.after(clock, shape)
    lengths: Counter[int] = Counter()
    for (_, length), count in shapes.items():
        lengths[length] += count
    return Plan(
        steps=end.step,
        tokens=end.tokens,
        short_of_budget=schedule.budget - end.tokens,
        lengths=dict(sorted(lengths.items())),
        shapes=len(shapes),
        full_from=full_from,
        tokens_before_full=tokens_before_full,
        parameters=cost.parameters(config.model),
        flops=sum(cost.flops(config.model, *shape) * count for shape, count in shapes.items()),
        memory=cost.memory(config.model, micro_tokens),
        micro_tokens=micro_tokens,
        unread=None if sequences is None else _unread(config, schedule, sequences),
        passes=None if sequences is None else end.tokens / (sequences * config.model.length),
    )


def _unread(config: Config, schedule: Schedule, sequences: int) -> int:
    ledger = Ledger.start(
        sequences=sequences,
        full_length=config.model.length,
        reuse_after=reuse_spacing(config.batch.reuse_after, schedule.most_rows, sequences),
        leftovers=config.batch.leftovers,
    )
    for _, shape in steps(schedule):
        _, ledger = ledger.take(shape.rows, shape.length)
    return ledger.unread


def describe(plan: Plan, flops_per_second: float, where: str) -> list[tuple[str, str]]:
    """Return the plan as lines of a name and a text."""
    seconds = plan.flops / flops_per_second
    lines = [
        ("steps", f"{plan.steps:,}"),
        ("tokens", f"{plan.tokens:,}" + _short(plan.short_of_budget)),
        ("lengths", _spread(plan.lengths)),
        ("shapes", f"{plan.shapes} of (rows, length)"),
        ("full length", _full(plan)),
        ("parameters", f"{plan.parameters:,}"),
        ("arithmetic", f"{plan.flops:.3g} FLOP, attention at its real length"),
        ("memory", f"{plan.memory / 1e9:.2f} GB with {plan.micro_tokens:,} tokens in a pass"),
        ("time", f"{_duration(seconds)} at {flops_per_second / 1e9:,.0f} GFLOP/s ({where})"),
    ]
    if plan.passes is not None:
        lines.append(
            (
                "corpus",
                f"{plan.passes:.3g} passes; {plan.unread:,} tokens of the last one stay unread",
            )
        )
    return lines


def _short(tokens: int) -> str:
    return f", {tokens:,} short of the budget: less than one more row" if tokens else ""


def _spread(lengths: dict[int, int]) -> str:
    first, last = min(lengths), max(lengths)
    if first == last:
        return f"{first} at every step"
    return f"{first} to {last}, {len(lengths)} of them; {lengths[last]:,} steps at {last}"


def _full(plan: Plan) -> str:
    if plan.full_from is None:
        return "not reached within the budget"
    if plan.full_from == 0:
        return "from the first step on"
    share = 100 * plan.tokens_before_full / plan.tokens
    before = f"{plan.tokens_before_full:,} tokens ({share:.0f} %)"
    return f"from step {plan.full_from:,} on, after {before}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


def lines_for(config: Config, flops_per_second: str | None = None) -> list[tuple[str, str]]:
    """Return the plan of a configuration as lines; `flops_per_second` None means measured here.

    Raises SettingError where a setting is missing, and DataError for a store that cannot be used.
    """
    sequences = None
    if config.data.path is not None:
        store = open_store(config)
        config = with_store(config, store)
        sequences = (len(store.train) - 1) // config.model.length
    if config.model.vocabulary is None:
        hint = "give a token store with --data, or --model.vocabulary N"
        raise SettingError("model.vocabulary", "is missing", None, hint)
    micro_tokens = config.batch.micro_tokens
    if micro_tokens == "auto":
        # A plan for a larger machine is as good: its memory line says what that needs.
        micro_tokens = micro_tokens_within(config, limit=None)
    speed, where = _speed(flops_per_second)
    return describe(plan(config, micro_tokens, sequences), speed, where)


def micro_tokens_within(config: Config, limit: int | None, world: int = 1) -> int:
    """Return the tokens of a pass on a CPU with `limit` bytes, None meaning any number.

    Raises MemoryLimitError where not one row fits.
    """
    length = config.model.length
    doubled = 2 if config.run.precision == "fp64" else 1
    whole = min(-(-config.batch.rows // world) * length, max(length, CPU_PASS))

    def fits(size: int) -> bool:
        return limit is None or doubled * cost.memory(config.model, size) <= limit

    return fit_check(whole, length, fits)


def _speed(given: str | None) -> tuple[float, str]:
    if given is None:
        share = f"{UTILISATION:.0%} of this processor's matrix products, measured"
        return UTILISATION * _matrix_product_peak(), share
    try:
        speed = parse_count(given)
    except ValueError as error:
        raise SettingError("--flops", str(error), given) from None
    if not isinstance(speed, int) or speed < 1:
        raise SettingError("--flops", "must be above 0", given)
    return float(speed), "as given"


def _matrix_product_peak(size: int = 1024, seconds: float = 0.5) -> float:
    """Return the FLOP/s of float32 matrix products on this machine's processor."""
    matrix = torch.randn(size, size)
    torch.mm(matrix, matrix)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        torch.mm(matrix, matrix)
        count += 1
    return 2.0 * size**3 * count / (time.perf_counter() - began)

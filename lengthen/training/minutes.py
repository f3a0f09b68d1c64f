"""A budget in minutes -> the tokens that it is on this machine, by steps tried beforehand."""

from bisect import bisect_right

from lengthen.config.load import with_overrides
from lengthen.config.schema import Config
from lengthen.config.values import MOST
from lengthen.core.custom_pacing import Custom
from lengthen.core.schedule import spans
from lengthen.distributed.context import SINGLE_PROCESS, DistributedContext
from lengthen.distributed.memory import free_memory
from lengthen.training.calibrate import LIMIT, Speed, measure_speed
from lengthen.util.errors import SettingError

SHARE = 0.1  # of the minutes, that trying steps may take
WALKED = 10**5  # steps of a function that are looked at for their lengths


def in_tokens(
    config: Config,
    micro_tokens: int,
    *,
    speed: Speed | None = None,
    context: DistributedContext = SINGLE_PROCESS,
) -> Config:
    """Return the configuration with tokens for a budget in minutes, the same on every rank.

    They are whole steps at full length. The time is that of training alone, a warmup's steps by
    their lengths, at `speed` or as tried here on the rows of one rank. Raises SettingError where it
    is too short for one step at full length.
    """
    minutes = config.budget.minutes
    if minutes is None:
        return config
    speed = speed or _measured(config, micro_tokens, 60 * minutes, context.world_size)
    free_memory(context.device)
    # A few steps may be fewer tokens than those of a decay that the whole run has room for.
    tried = with_overrides(config, {"optimizer": {"decay_tokens": MOST}})

    def needed(steps: int) -> float:
        """Return the minutes of a budget of so many steps at full length."""
        parts = spans(_of_steps(tried, steps).schedule())
        rows = ((-(-one.rows // context.world_size), one.length, one.steps) for one in parts)
        return sum(count * speed.seconds(ours, length) for ours, length, count in rows) / 60

    most = 1
    while needed(most) <= minutes:
        most *= 2
    steps = context.all_reduce_min(bisect_right(range(1, most), minutes, key=needed))
    if not steps:
        rule = f"must be enough for one step at full length, {needed(1):.2g} here"
        raise SettingError("budget.minutes", rule, minutes)
    return _of_steps(config, steps)


def _of_steps(config: Config, steps: int) -> Config:
    tokens = steps * config.batch.rows * config.model.length
    return with_overrides(config, {"budget": {"tokens": tokens}})


def _measured(config: Config, micro_tokens: int, seconds: float, ranks: int) -> Speed:
    """Return the speed of the shapes that a run without an end would have."""
    endless = with_overrides(config, {"budget": {"tokens": MOST}}).schedule()
    parts = spans(endless, WALKED if isinstance(endless.pacing, Custom) else None)
    shapes = {(config.batch.rows, config.model.length)} | {(one.rows, one.length) for one in parts}
    ours = sorted({(-(-rows // ranks), length) for rows, length in shapes})
    return measure_speed(config, micro_tokens, ours, min(LIMIT, SHARE * seconds))

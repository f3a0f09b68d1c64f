"""What makes the variants of a cell comparable: equal budgets, looks and tokens of a step."""

from collections.abc import Iterator, Mapping
from itertools import islice, pairwise

from lengthen.config.load import flat, with_overrides
from lengthen.config.schema import Config, Tables
from lengthen.config.values import MOST, parse_count
from lengthen.core.pacing import Adaptive, Doubling, Linear
from lengthen.core.schedule import steps
from lengthen.model import cost
from lengthen.util.errors import SettingError

WALKED = 10**6  # steps that are gone through one by one: some seconds
UNKNOWN_LENGTHS = "must say its lengths beforehand for a budget in flops"
STATED_LENGTHS = (
    "give an equal budget.tokens instead of flops, or the lengths that it took in a run "
    'as pacing.kind = "staged"'
)
# What every variant of a cell must share, or their validation losses say different things: who
# looks more often finds a lower best loss, and finds it earlier.
SHARED = (
    "model.length",
    "evaluation.tokens",
    "evaluation.every_steps",
    "evaluation.every_tokens",
    "evaluation.probe_every_steps",
    "data.path",
    "data.store_id",
    "data.documents",
)


def with_flops(config: Config, given: object) -> Config:
    """Return the configuration with as many whole steps as `given` operations pay for.

    Raises SettingError for a pacing whose lengths are known only as it runs: no number of tokens
    costs these operations whatever it observes.
    """
    if isinstance(config.pacing, Adaptive):
        raise SettingError("pacing.kind", UNKNOWN_LENGTHS, config.pacing.kind, STATED_LENGTHS)
    try:
        most = parse_count(given)
    except ValueError as error:
        raise SettingError("flops", str(error), given) from None
    if not isinstance(most, int) or most < 1:
        raise SettingError("flops", "must be a whole number above 0, such as 2e15", given)
    if config.model.vocabulary is None:
        raise SettingError("model.vocabulary", "is missing; a budget in flops needs it")
    unlimited = with_overrides(config, {"budget": {"tokens": MOST}}).schedule()
    tokens, left = 0, most
    for number, (_, shape) in enumerate(steps(unlimited)):
        _must_be_walkable(config, number, "a budget in flops")
        each = cost.flops(config.model, shape.rows, shape.length)
        paced = shape.length if config.pacing.of == "length" else shape.rows
        # Once the pacing has arrived all steps are alike, and there can be very many.
        count = left // each if paced == config.pacing.end else min(1, left // each)
        tokens, left = tokens + count * shape.tokens, left - count * each
        if paced == config.pacing.end or not count:
            break
    if not tokens:
        raise SettingError("flops", "does not pay for one step", given)
    return with_overrides(config, {"budget": {"tokens": tokens}})


def _must_be_walkable(config: Config, number: int, what: str) -> None:
    """Raise SettingError at a step whose number says that the walk is none that ends soon."""
    if number >= WALKED:
        rule = f"must come to its end within {WALKED} steps for {what}"
        raise SettingError("pacing", rule, config.pacing.kind)


def must_be_fair(configs: Mapping[str, Config], baseline: str, *, equal_budgets: bool) -> None:
    """Raise SettingError where two variants of a cell differ in what all must share."""
    expected = flat(configs[baseline].tables())
    budgets = ("budget.tokens", "budget.epochs") if equal_budgets else ()
    for name, config in configs.items():
        if config.budget.minutes is not None:
            rule = "would give every run its own tokens; a comparison needs budget.tokens"
            hint = "`lengthen plan` says how many they are"
            raise SettingError("budget.minutes", rule, config.budget.minutes, hint)
        found = flat(config.tables())
        if not config.evaluation.probe_every_steps:
            rule = "must be above 0: a comparison judges stability by the probe"
            raise SettingError("evaluation.probe_every_steps", rule, 0)
        for setting in (*budgets, *SHARED):
            if found.get(setting) != expected.get(setting):
                unequal = "unequal budgets" if setting in budgets else "not comparable"
                rule = f"{unequal}: {baseline!r} has {expected.get(setting)!r}"
                raise SettingError(f"variants.{name}.{setting}", rule, found.get(setting))


def must_have_the_same_tokens(
    configs: Mapping[str, Config], variants: Mapping[str, Tables]
) -> None:
    """Hold every rows warmup to the tokens of the variant that it is the control of."""
    for name, changes in variants.items():
        if (other := changes.get("same_tokens_as")) is None:
            continue
        paced = [configs[one].pacing for one in (name, other)]
        ends = [pacing.duration for pacing in paced if isinstance(pacing, Linear | Doubling)]
        # Once both have arrived all steps are alike, and there can be very many.
        most = max(ends) + 1 if len(ends) == len(paced) else None
        both = zip(_uncut(configs[name]), _uncut(configs[other]), strict=False)
        for step, (ours, theirs) in enumerate(islice(both, most), 1):
            _must_be_walkable(configs[name], step, "same_tokens_as")
            if ours != theirs:
                rule = f"step {step} has {ours} tokens where {other!r} has {theirs}"
                raise SettingError(f"variants.{name}.same_tokens_as", rule)


def _uncut(config: Config) -> Iterator[int]:
    """Yield the tokens of every step but the last, which the budget cuts."""
    return (shape.tokens for (_, shape), _ in pairwise(steps(config.schedule())))

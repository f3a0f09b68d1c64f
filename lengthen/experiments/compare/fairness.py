"""What makes the variants of a cell comparable: equal budgets, looks and tokens of a step."""

from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from itertools import islice, pairwise

from lengthen.config.load import flat, with_overrides
from lengthen.config.schema import Config, Tables
from lengthen.config.values import MOST, parse_count
from lengthen.core.custom_pacing import Custom
from lengthen.core.pacing import Adaptive, Doubling, Linear
from lengthen.core.schedule import spans, steps
from lengthen.experiments.compare.seconds import SecondsTable
from lengthen.model import cost
from lengthen.util.errors import SettingError

WALKED = 10**6  # steps that are gone through one by one: some seconds
UNKNOWN_LENGTHS = "must say its lengths beforehand for a budget in flops or seconds"
STATED_LENGTHS = (
    "give an equal budget.tokens instead, or the lengths that it took in a run "
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
    _must_say_its_lengths(config)
    try:
        most = parse_count(given)
    except ValueError as error:
        raise SettingError("flops", str(error), given) from None
    if not isinstance(most, int) or most < 1:
        raise SettingError("flops", "must be a whole number above 0, such as 2e15", given)
    if config.model.vocabulary is None:
        raise SettingError("model.vocabulary", "is missing; a budget in flops needs it")
    tokens = _paid(config, most, partial(cost.flops, config.model))
    if not tokens:
        raise SettingError("flops", "does not pay for one step", given)
    return with_overrides(config, {"budget": {"tokens": tokens}})


def with_seconds(
    configs: Mapping[str, Config], name: str, other: str, table: SecondsTable | None
) -> Config:
    """Return the variant `name` with the whole steps that take the seconds of the run of `other`.

    By the table, to the nearest step. Raises SettingError as with_flops, and for what the table
    does not hold.
    """
    if table is None:
        rule = "needs seconds, which names a table of seconds a token"
        raise SettingError(f"variants.{name}.same_seconds_as", rule)
    for one in (name, other):
        try:
            _must_say_its_lengths(configs[one])
            table.must_fit(configs[one])
        except SettingError as error:
            raise error.within(f"variants.{one}") from None
    tokens = _paid(configs[name], table.of_run(configs[other]), table.of_step, slack=0.5)
    return with_overrides(configs[name], {"budget": {"tokens": tokens}})


def _must_say_its_lengths(config: Config) -> None:
    if isinstance(config.pacing, Adaptive | Custom):
        raise SettingError("pacing.kind", UNKNOWN_LENGTHS, config.pacing.kind, STATED_LENGTHS)


def _paid(config: Config, most: float, price: Callable[[int, int], float], slack: float = 0) -> int:
    """Return the tokens of the steps that `most` pays for, of the last one all but `slack`."""
    unlimited = with_overrides(config, {"budget": {"tokens": MOST}}).schedule()
    tokens, left = 0, most
    for span in spans(unlimited):
        each = price(span.rows, span.length)
        count = max(0, int((left + slack * each) // each))
        tokens += min(count, span.steps) * span.plan.tokens
        if count < span.steps:
            return tokens
        left -= span.steps * each
    raise SettingError("budget.tokens", f"would be more than {MOST}")


def must_be_fair(configs: Mapping[str, Config], baseline: str, own: Container[str]) -> None:
    """Raise SettingError where variants of a cell differ in what they must share.

    Those in `own` have budgets of their own.
    """
    first = next((one for one in (baseline, *configs) if one not in own), baseline)
    expected = flat(configs[first].tables())
    for name, config in configs.items():
        if config.budget.minutes is not None:
            rule = "would give every run its own tokens; a comparison needs budget.tokens"
            hint = "`lengthen plan` says how many they are"
            raise SettingError("budget.minutes", rule, config.budget.minutes, hint)
        found = flat(config.tables())
        if not config.evaluation.probe_every_steps:
            rule = "must be above 0: a comparison judges stability by the probe"
            raise SettingError("evaluation.probe_every_steps", rule, 0)
        budgets = () if name in own else ("budget.tokens", "budget.epochs")
        for setting in (*budgets, *SHARED):
            if found.get(setting) != expected.get(setting):
                unequal = "unequal budgets" if setting in budgets else "not comparable"
                rule = f"{unequal}: {first!r} has {expected.get(setting)!r}"
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
            if step >= WALKED:
                rule = f"must come to its end within {WALKED} steps for same_tokens_as"
                raise SettingError("pacing", rule, configs[name].pacing.kind)
            if ours != theirs:
                rule = f"step {step} has {ours} tokens where {other!r} has {theirs}"
                raise SettingError(f"variants.{name}.same_tokens_as", rule)


def _uncut(config: Config) -> Iterator[int]:
    """Yield the tokens of every step but the last, which the budget cuts."""
    if config.budget.epochs is not None:  # tokens that a store says; a share is one of any budget
        steps_of = WALKED // 10 * config.batch.rows * config.model.length
        config = with_overrides(config, {"budget": {"tokens": min(MOST, steps_of)}})
    return (shape.tokens for (_, shape), _ in pairwise(steps(config.schedule())))

"""What is to be tuned, checked before any trial: a training, a search space, evaluations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from lengthen.config.load import with_overrides
from lengthen.config.schema import Config, Tables
from lengthen.config.values import MOST as MOST_TOKENS
from lengthen.core.pacing import Constant, Doubling, Linear, Root
from lengthen.core.schedule import Schedule, spans
from lengthen.data.open_store import with_store
from lengthen.data.store import Store
from lengthen.experiments.tune.search import FIRST, Setting, Space
from lengthen.model import cost
from lengthen.util.errors import DataError, SettingError

WARMUPS = 3  # of the learning rate, that a trial lasts (ours; the paper: the first few multiples)
# The same where the start is looked for (ours; the paper: the very beginning): one to arrive at the
# rate, one at it. The third would cost as much as these two, whose rows are shorter.
OPENING_WARMUPS = 2
LEAST_START = 8  # tokens; the paper's first start for models of millions of parameters
LEAST_START_OF_BILLIONS = 64  # likewise
BILLIONS = 10**9  # parameters from which a model is one of billions (ours)
WARMUP_SHARE = 0.75  # of the budget, that the warmup may take at most (ours)
RACE_SHARE = 0.05  # of the budget, that each start of a race is trained for (ours)
RACE_EVALUATIONS = 10  # evaluations of a race, the same tokens apart
RACE_STEPS = 40  # of full length, that a race must have the tokens of (ours)
MOST_WARMUP = 10**5  # steps
MOST_STARTS = 64  # of more the cost is not estimated in seconds any more
MULTIPLE = 8  # where the recipe has no pacing that names one

# Of the difference, token by token, between the losses of two trials at their third warm-up:
# measured by `python -m benchmarks.judging`.
PAIRED_SD = 0.40  # nats
SPREAD = f"for a spread of {PAIRED_SD:.2f} nats, as measured early on a small model"
# Of an evaluation in a race: the fewest that see 1 %, in whole sequences of 256.
JUDGE_TOKENS = 6_656
# Whether a trial is calm takes a share of them: it sees 2 %, and a rise of 30 % is looked for.
CALM_SHARE = 4


@dataclass(frozen=True)
class Problem:
    """A training whose start and duration are looked for."""

    config: Config  # of the training, as it was given, with what its store decides
    budget: int  # trained tokens of it
    judge_tokens: int  # of the validation part, that each evaluation of a race reads
    space: Space

    @property
    def warmup(self) -> int:
        """Steps in which the learning rate warms up, W."""
        return self.config.optimizer.warmup_steps

    def steps(self, setting: Setting) -> int:
        """Return the steps of a setting's trial."""
        if setting.raced:
            return trial_steps(self.training(setting), self.race_tokens)
        return (OPENING_WARMUPS if setting.opening else WARMUPS) * self.warmup

    @property
    def race_tokens(self) -> int:
        """Tokens that a race may train."""
        return int(RACE_SHARE * self.budget)

    def evaluations(self, setting: Setting) -> int:
        """Return how many evaluations a setting's trial has."""
        if setting.raced:
            return RACE_EVALUATIONS
        return -(-self.steps(setting) // evaluation_steps(self.warmup))

    def evaluation_tokens(self, setting: Setting) -> int:
        """Return the validation tokens that each of them reads: in whole sequences."""
        if setting.raced:
            return self.judge_tokens
        length = self.config.model.length
        return -(-self.judge_tokens // (CALM_SHARE * length)) * length

    def training(self, setting: Setting) -> Config:
        """Return the whole training with a setting."""
        given = self.config.optimizer
        changes = {
            "pacing": _pacing(self.config, setting, self.warmup),
            "batch": {"rows": setting.rows * self.config.batch.rows},
            "optimizer": {
                "learning_rate": setting.rate * given.learning_rate,
                "min_learning_rate": setting.rate * given.min_learning_rate,
            },
        }
        return with_overrides(self.config, changes)

    def trial_config(self, setting: Setting) -> Config:
        """Return the first steps of that training, evaluated for judging.

        Steps and learning rates are those of the whole training, to the last digit: only the budget
        is cut, and the rate decays over the tokens that it would have decayed over.
        """
        when = {"every_steps": evaluation_steps(self.warmup)}
        if setting.raced:
            when = {"every_tokens": -(-self.race_tokens // RACE_EVALUATIONS)}
        tokens = self.evaluation_tokens(setting)
        trial = {
            "budget": {"tokens": trial_tokens(self.training(setting), self.steps(setting))},
            "evaluation": {**when, "tokens": tokens, "probe_every_steps": 0},
            # Three warm-ups are done again sooner than saved; a race may be hours.
            "saving": {"keep": 1} if setting.raced else {"every_steps": 0, "keep": 1},
            # Not finite is not calm, so there is nothing to continue for.
            "run": {"on_nonfinite": "stop"},
        }
        return with_overrides(self.training(setting), trial)

    def fits(self, setting: Setting) -> bool:
        """Return whether the budget has room for a trial, and for enough after the warmup.

        A race must be longer than what shows that its start is calm, and have steps of full length
        between two evaluations: the beginning of a shorter one says nothing about the end.
        """
        training = self.training(setting)
        trial = trial_tokens(training, WARMUPS * self.warmup)
        if setting.raced:
            holds_tokens = training.batch.hold == "tokens"
            full = training.model.length if holds_tokens else training.pacing.end
            return max(trial, RACE_STEPS * training.batch.rows * full) <= self.race_tokens
        return trial <= self.budget and self.warmup_share(setting) <= WARMUP_SHARE

    def warmup_share(self, setting: Setting) -> float:
        """Return the share of the budget that the first T steps take; above 1 they do not fit."""
        training, duration = self.training(setting), setting.multiple * self.warmup
        return trial_tokens(training, duration) / self.budget


def evaluation_steps(warmup: int) -> int:
    """Return the steps between two evaluations of a trial: a tenth of the warm-up (ours)."""
    return max(1, warmup // 10)


def trial_tokens(config: Config, count: int) -> int:
    """Return the tokens of the first `count` steps of a training, whatever its budget is."""
    return sum(span.tokens for span in spans(_endless(config), count))


def trial_steps(config: Config, tokens: int) -> int:
    """Return how many steps of a training have at most so many tokens: the inverse."""
    count = 0
    for span in spans(_endless(config)):
        fitting = min(span.steps, tokens // (span.rows * span.length))
        count, tokens = count + fitting, tokens - fitting * span.rows * span.length
        if fitting < span.steps:
            break
    return count


def _endless(config: Config) -> Schedule:
    # A budget that ends makes the rows of a last step fewer.
    return with_overrides(config, {"budget": {"tokens": MOST_TOKENS}}).schedule()


def resolution(tokens: int) -> float:
    """Return the difference in perplexity, as a share, that two standard errors are.

        exp(2 d / sqrt(n)) - 1

    d is the spread of the paired difference: all trials are evaluated on the same n tokens.
    """
    return math.expm1(2 * PAIRED_SD / math.sqrt(tokens))


def tokens_for(share: float) -> int:
    """Return the tokens at which two standard errors are a difference of `share`: the inverse."""
    return math.ceil((2 * PAIRED_SD / math.log1p(share)) ** 2)


def define_problem(
    config: Config,
    store: Store,
    *,
    starts: Sequence[int] = (),
    judge_tokens: int | None = None,
    aggressive: bool = False,
) -> Problem:
    """Check what is to be tuned for `config` on `store`.

    Raises SettingError for a configuration without anything to tune or a space without anything to
    try, DataError for a store that does not fit or a validation part too small to judge by.
    """
    _must_be_tunable(config)
    judge_tokens = _judge_tokens(config, store, judge_tokens)
    config = with_store(config, store)
    budget = config.schedule((len(store.train) - 1) // config.model.length).budget
    space = Space(_starts(config, starts), aggressive)
    problem = within_budget(Problem(config, budget, judge_tokens, space))
    _must_fit_the_budget(problem)
    return problem


def within_budget(problem: Problem) -> Problem:
    """Return a problem whose search tries only what its budget has room for."""
    # The search is replayed again and again, and each answer is worked out from a configuration.
    return replace(problem, space=replace(problem.space, fits=cache(problem.fits)))


def _must_be_tunable(config: Config) -> None:
    if config.optimizer.warmup_steps == 0:
        rule = "must be above 0: trials and durations are counted in warm-ups of the learning rate"
        raise SettingError("optimizer.warmup_steps", rule, 0)
    if (warmup := config.optimizer.warmup_steps) > MOST_WARMUP:
        raise SettingError("optimizer.warmup_steps", f"must be at most {MOST_WARMUP}", warmup)
    if config.pacing.of == "rows":
        raise SettingError("pacing.of", 'must be "length" to be tuned', config.pacing.of)
    if not isinstance(config.pacing, Constant | Linear | Root | Doubling):
        hint = "--pacing.kind linear --pacing.start 8 --pacing.duration 100 will do"
        rule = (
            "must be linear, root, doubling or constant: others have no start and duration to tune"
        )
        raise SettingError("pacing.kind", rule, config.pacing.kind, hint)


def _judge_tokens(config: Config, store: Store, wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        raise SettingError("--judge-tokens", "must be at least 1", wanted)
    length = config.model.length
    needed = -(-(wanted or JUDGE_TOKENS) // length) * length
    there = max(0, len(store.valid) - 1) // length * length
    if there >= needed:
        return needed
    why = f"--judge-tokens {wanted} asks for more"
    if wanted is None:
        why = (
            f"differences of 1 % in perplexity need {tokens_for(0.01)}, where two standard errors "
            f"of the paired mean loss, 2 x {PAIRED_SD:.2f} / sqrt(n) nats, are ln 1.01 {SPREAD}"
        )
    has = f"the valid part has {len(store.valid)} tokens, {needed + 1} are needed"
    hint = "prepare with a larger --valid"
    hint += f", or judge more coarsely with --judge-tokens {there}" if there else ""
    raise DataError(f"store {store.path}: {has}: {why}; {hint}")


def _starts(config: Config, given: Sequence[int]) -> tuple[int, ...]:
    end, multiple = config.pacing.end, _multiple(config)
    for start in given:
        if not 1 <= start < end:
            raise SettingError("--starts", f"must be from 1 to below full length ({end})", start)
        if start % multiple:
            rule = f"must be multiples of pacing.multiple ({multiple})"
            raise SettingError("--starts", rule, start)
    starts = list(given)
    start = _least_start(config)
    while not given and 4 * start <= end:
        starts.append(start)
        start *= 2
    if not starts:
        rule = f"is missing: no default lies at or below a quarter of full length ({end})"
        raise SettingError("--starts", f"{rule} and is a multiple of {multiple}")
    if len(set(starts)) > MOST_STARTS:
        raise SettingError("--starts", f"must be at most {MOST_STARTS}", len(set(starts)))
    return tuple(sorted(set(starts)))


def _least_start(config: Config) -> int:
    """Return the first start that is tried, in tokens: the paper's, made a multiple."""
    large, multiple = cost.parameters(config.model) >= BILLIONS, _multiple(config)
    return -(-(LEAST_START_OF_BILLIONS if large else LEAST_START) // multiple) * multiple


def _multiple(config: Config) -> int:
    pacing = config.pacing
    if isinstance(pacing, Linear | Root):
        return pacing.multiple
    return 1 if isinstance(pacing, Doubling) else MULTIPLE


def _pacing(config: Config, setting: Setting, warmup: int) -> Tables:
    """Return the pacing of a candidate: the recipe's own kind, linear where it has no warmup."""
    pacing: Tables = {
        "kind": "linear",
        "start": setting.start,
        "duration": setting.multiple * warmup,
    }
    if isinstance(config.pacing, Doubling):
        return pacing | {"kind": "doubling"}
    pacing["multiple"] = _multiple(config)
    if isinstance(config.pacing, Root):
        pacing |= {"kind": "root", "degree": config.pacing.degree}
    return pacing


def _must_fit_the_budget(problem: Problem) -> None:
    # The shortest duration at the longest start has the most tokens of all.
    largest = Setting(problem.space.starts[-1], FIRST)
    needed = trial_tokens(problem.training(largest), problem.steps(largest))
    if needed > problem.budget:
        is_tokens = problem.config.budget.epochs is None
        verb = "be" if is_tokens else "give"
        rule = f"must {verb} at least one trial, {WARMUPS} warm-ups ({needed} tokens)"
        hint = "lower optimizer.warmup_steps or batch.rows"
        if problem.space.starts[-1] > _least_start(problem.config):
            hint += ", or give smaller --starts"
        name = "budget.tokens" if is_tokens else "budget.epochs"
        raise SettingError(name, rule, problem.budget, hint)

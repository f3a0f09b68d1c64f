"""What a search has come to: in sentences, as a table, as panels, and for another program."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, expm1, inf, isfinite
from typing import Any

from lengthen.config.load import with_overrides
from lengthen.experiments.tune.cost import SearchCost
from lengthen.experiments.tune.problem import (
    OPENING_WARMUPS,
    RACE_SHARE,
    SPREAD,
    WARMUP_SHARE,
    WARMUPS,
    Problem,
    resolution,
)
from lengthen.experiments.tune.search import (
    FIRST,
    MOST_RATE,
    MOST_ROWS,
    MULTIPLES,
    RACE_TOLERANCE,
    RIVAL,
    Losses,
    Setting,
    race_entries,
    raced,
)
from lengthen.experiments.tune.trials import LAST_EVALUATIONS, RISE, TrialResult, losses_of
from lengthen.planning.plan import plan
from lengthen.reporting.curves import Curve, Panel
from lengthen.util.tables import Table, number


@dataclass(frozen=True)
class SearchResult:
    """A search that is over."""

    problem: Problem
    chosen: Setting | None
    trials: Sequence[TrialResult]  # in the order in which they were begun
    cost: SearchCost
    threads: Sequence[int] = ()  # with which trials were computed, each number once

    @property
    def losses(self) -> Losses:
        """What the search knows."""
        return losses_of(self.trials)


def sentences(result: SearchResult) -> list[str]:
    """Return the choice, what it rests on, and what it cost."""
    if (chosen := result.chosen) is None:
        reason = no_calm(result)
        return [f"{reason[0].upper()}{reason[1:]}.", _cost(result.cost)]
    return [
        _choice(result, chosen),
        *_race(result, chosen),
        *_end_of_ladder(result.problem, chosen),
        *(_bolder if result.problem.space.aggressive else _room_for_more)(result, chosen),
        _cost(result.cost),
        *_warnings(result, chosen),
    ]


def no_calm(result: SearchResult) -> str:
    """Say that no trial was calm to its end, which ones were tried, and what to change."""
    tried = "; ".join(
        one.trial.label for one in result.trials if one.is_decided and not one.is_calm
    )
    return f"no trial stayed calm for {WARMUPS} warm-ups ({tried}): {remedies(result.problem)}"


def remedies(problem: Problem) -> str:
    """Say what to change where no trial was calm: only what there is room for."""
    given, longest = problem.config, problem.space.starts[-1]
    lower = [f"optimizer.learning_rate ({given.optimizer.learning_rate:g})"]
    lower += [f"batch.rows ({given.batch.rows})"] * (given.batch.rows > 1)
    ways = [f"lower {' or '.join(lower)}", f"raise optimizer.warmup_steps ({problem.warmup})"]
    if 2 * longest < given.pacing.end:
        ways.append(f"try longer starts with --starts {2 * longest}")
    return f"{', '.join(ways[:-1])}, or {ways[-1]}"


def _choice(result: SearchResult, chosen: Setting) -> str:
    plain = Setting(chosen.start, chosen.multiple)
    why = {one.trial.setting: one.stability.why for one in result.trials}
    return (
        f"Start {chosen.start} and T = {chosen.multiple * result.problem.warmup} steps "
        f"({chosen.multiple} warm-ups): over its first {WARMUPS} warm-ups the validation "
        f"perplexity was {why[plain]}."
    )


def _race(result: SearchResult, chosen: Setting) -> list[str]:
    """Say how the race ended, or why there was none."""
    problem, losses = result.problem, result.losses
    entries = race_entries(problem.space, losses)
    if not entries:
        why = "the budget has no room for one"
        if problem.space.starts[-1] < RIVAL * chosen.start:
            why = f"no start that may be tried is {RIVAL} times as long"
        return [f"There was no race, since {why}: longer starts were not compared."]
    ends = {one.start: losses[raced(one)] for one in entries}
    ended = ", ".join(f"start {start} {perplexity(loss)}" for start, loss in ends.items())
    text = [
        f"The perplexity after a race of {problem.race_tokens:,} tokens, {100 * RACE_SHARE:g} % of "
        f"the budget, with T = {entries[0].multiple * problem.warmup}: {ended}. A longer start "
        f"wins unless its own is more than {100 * expm1(RACE_TOLERANCE):.0f} % higher."
    ]
    if not isfinite(ends.get(chosen.start, 0.0)):
        text.append(
            f"Start {chosen.start} was calm for {WARMUPS} warm-ups and not in its race: "
            f"{remedies(problem)}."
        )
    return text


def perplexity(loss: float) -> str:
    """Return the perplexity of a loss in nats, for people."""
    # Of a loss that is out of proportion it would be a number of many digits.
    return number(exp(loss), 1) if loss < 20 else f"e^{loss:.0f}" if isfinite(loss) else "not calm"


def _end_of_ladder(problem: Problem, chosen: Setting) -> list[str]:
    """Say that the budget has room for no longer T, where a longer one would have been tried."""
    plain = Setting(chosen.start, chosen.multiple)
    if chosen.multiple == MULTIPLES[-1] or problem.space.ladder(chosen.start)[-1] != plain:
        return []
    return [
        f"The budget leaves no room for a longer T: at most {100 * WARMUP_SHARE:.0f} % of it may "
        f"be trained before full length is reached, and with this T "
        f"{100 * problem.warmup_share(plain):.0f} % are."
    ]


def _bolder(result: SearchResult, chosen: Setting) -> list[str]:
    """Say how far --aggressive came, and what ended it."""
    tuned, space = result.problem.training(chosen), result.problem.space
    limit = ", no more is tried"
    rate_limit, rows_limit = limit * (chosen.rate == MOST_RATE), limit * (chosen.rows == MOST_ROWS)
    if chosen.rows < MOST_ROWS and space.with_more_rows(chosen) is None:
        rows_limit = ", the budget has no room for more"
    return [
        f"With it the largest learning rate that stayed calm is {tuned.optimizer.learning_rate:g} "
        f"({chosen.rate} x what was given{rate_limit}), and with that the most rows are "
        f"{tuned.batch.rows} ({chosen.rows} x what was given{rows_limit})."
    ]


def _room_for_more(result: SearchResult, chosen: Setting) -> list[str]:
    """Say that more is possible, where nothing was unstable but for a warmup that was too slow."""
    losses = result.losses
    hint = "a larger learning rate or batch may be possible: --aggressive looks for it."
    if all(map(isfinite, losses.values())):
        return [f"Every trial was calm, so {hint}"]
    # What is not calm at a large T alone has trained on short text for too long.
    first = Setting(result.problem.space.starts[0], chosen.multiple)
    wild = any(setting.raced and not isfinite(loss) for setting, loss in losses.items())
    if isfinite(losses.get(first, inf)) and first.multiple >= FIRST and not wild:
        return [f"The first start was calm at once, so {hint}"]
    return []


def trials_of(cost: SearchCost) -> str:
    """Return how many trials there were, in words."""
    return f"{cost.trials} trial{'s' * (cost.trials > 1)}"


def _cost(cost: SearchCost) -> str:
    training, work = cost.training, cost.work
    whole = f"{training.steps:,} steps, {training.tokens:,} tokens, {training.flops:.3g} FLOP"
    share = "" if cost.second_share is None else f" (about {100 * cost.second_share:.1f} %)"
    text = (
        f"{trials_of(cost)} cost {work.tokens:,} tokens ({100 * cost.token_share:.1f} % of one "
        f"training: {whole}), with evaluation {work.flops:.3g} FLOP "
        f"({100 * cost.flop_share:.1f} %) and {cost.seconds:.0f} seconds{share}"
    )
    if cost.other_seconds:
        text += f", {cost.other_seconds:.0f} of them to start, save and watch processes"
    if cost.repeated_tokens:
        text += f"; besides, {cost.repeated_tokens:,} tokens were trained twice, after a kill"
    return f"{text}."


def _warnings(result: SearchResult, chosen: Setting) -> list[str]:
    text = []
    tuned = result.problem.training(chosen)
    tuned = with_overrides(tuned, {"budget": {"tokens": result.problem.budget}})
    if tuned.pacing.end == tuned.model.length and plan(tuned, tuned.model.length).full is None:
        early = "Even with this T the budget ends before full length is reached"
        text.append(f"{early}: raise the budget, or lower optimizer.warmup_steps.")
    if len(result.threads) > 1:
        counts = " and ".join(map(str, result.threads))
        text.append(f"The trials had {counts} threads: equal to rounding, not to the last digit.")
    return text


def trials_table(result: SearchResult) -> Table:
    """Return a row for each trial."""
    problem = result.problem
    first = Setting(problem.space.starts[0], FIRST)
    columns = ("trial", "rate", "rows", "verdict", "largest rise", "perplexity", "steps", "tokens")
    return Table(
        "Trials",
        (*columns, "seconds"),
        tuple(_row(one) for one in result.trials),
        f"Not calm: validation perplexity above {RISE} x the lowest so far, or not finite. Each "
        f"evaluation reads the same {problem.evaluation_tokens(first):,} tokens, "
        f"{problem.judge_tokens:,} in a race; on those, differences of "
        f"{100 * resolution(problem.judge_tokens):.1f} % are two standard errors {SPREAD}, and "
        f"another seed moves it more. A beginning is {OPENING_WARMUPS} warm-ups, others {WARMUPS}; "
        f"perplexity is that of the mean loss of a race's last {LAST_EVALUATIONS} evaluations. "
        "Seconds are of training and evaluating.",
    )


def _row(one: TrialResult) -> tuple[str, ...]:
    config = one.trial.config
    return (
        one.trial.label,
        f"{config.optimizer.learning_rate:g}",
        str(config.batch.rows),
        one.stability.verdict if one.is_decided else "not needed",
        one.stability.rise,
        perplexity(one.loss) if one.trial.setting.raced and one.is_calm else "-",
        f"{len(one.metrics.steps):,}",
        f"{one.work.tokens:,}",
        number(one.work.seconds, 1),
    )


def curve_name(one: TrialResult) -> str:
    """Return what a trial's curves are called in every figure."""
    return f"{one.trial.label}: {one.stability.verdict}"


def panels(result: SearchResult) -> list[Panel]:
    """Return the validation perplexity of every trial, its verdict in its name; races apart."""
    early = [one for one in result.trials if not one.trial.setting.raced]
    races = [one for one in result.trials if one.trial.setting.raced]
    # Panels with the same words for their x share its range, and races are far longer.
    title = "Early validation perplexity of the trials"
    of_search = [_panel(title, "step", "step of a trial", early)]
    if races:
        title = "Validation perplexity in the race"
        of_search.append(_panel(title, "tokens", "tokens", races))
    return of_search


def _panel(title: str, clock: str, x: str, trials: Sequence[TrialResult]) -> Panel:
    def points(one: TrialResult) -> list[tuple[float, float]]:
        shown = (record for record in one.metrics.evaluations if record.perplexity is not None)
        return [(getattr(record, clock), record.perplexity or 0.0) for record in shown]

    curves = [Curve(curve_name(one), points(one)) for one in trials]
    return Panel(title, x, "perplexity", curves, log_y=True)


def facts(result: SearchResult) -> dict[str, Any]:
    """Return all of it for another program; shares are of one training, 1 is all of it."""
    cost, training, warmup = result.cost, result.cost.training, result.problem.warmup
    chosen = None
    if (setting := result.chosen) is not None:
        tuned = result.problem.training(setting)
        chosen = {
            "start": setting.start,
            "duration": setting.multiple * warmup,
            "warmups": setting.multiple,
            "learning_rate": tuned.optimizer.learning_rate,
            "rows": tuned.batch.rows,
        }
    return {
        "chosen": chosen,
        "trials": [_fact(one, warmup) for one in result.trials],
        "cost": {
            "trials": cost.trials,
            "tokens": cost.work.tokens,
            "validation_tokens": cost.work.judged,
            "flops": cost.work.flops,
            "seconds": cost.seconds,
            "seconds_beside_computing": cost.other_seconds,
            "tokens_trained_twice": cost.repeated_tokens,
        },
        "training": {
            "steps": training.steps,
            "tokens": training.tokens,
            "flops": training.flops,
            "seconds": cost.training_seconds,
        },
        "share": {
            "tokens": cost.token_share,
            "flops": cost.flop_share,
            "seconds": cost.second_share,
        },
        "verdicts": sentences(result),
    }


def _fact(one: TrialResult, warmup: int) -> dict[str, object]:
    return {
        "run": one.trial.name,
        **asdict(one.trial.setting),
        "duration": one.trial.setting.multiple * warmup,
        "verdict": one.stability.verdict,
        "why": one.stability.why,
        "loss": one.loss if one.is_calm else None,
        "steps": len(one.metrics.steps),
        "tokens": one.work.tokens,
        "seconds": one.work.seconds,
        "flops": one.work.flops,
    }

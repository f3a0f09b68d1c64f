"""What a search has found, said in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, expm1, inf, isfinite

from lengthen.config.load import with_overrides
from lengthen.experiments.tune.cost import Bill
from lengthen.experiments.tune.problem import (
    OPENING_WARMUPS,
    RACE_SHARE,
    WARMUP_SHARE,
    WARMUPS,
    Question,
)
from lengthen.experiments.tune.search import (
    BEHIND,
    FIRST,
    MOST_RATE,
    MOST_ROWS,
    MULTIPLES,
    RIVAL,
    Setting,
    Space,
    against_monotony,
    race,
    raced,
)
from lengthen.experiments.tune.trials import Seen, losses
from lengthen.planning.plan import plan
from lengthen.util.tables import number


@dataclass(frozen=True)
class Found:
    """A search that is over."""

    question: Question
    chosen: Setting | None
    seen: Sequence[Seen]  # in the order in which they were begun
    bill: Bill
    threads: Sequence[int] = ()  # with which trials were computed, each number once

    @property
    def duration(self) -> int:
        """The chosen duration T, in steps."""
        assert self.chosen is not None
        return self.chosen.multiple * self.question.warmup


def sentences(found: Found) -> list[str]:
    """Return the choice, what it rests on, and what it cost."""
    if found.chosen is None:
        none = no_calm(found)
        return [f"{none[0].upper()}{none[1:]}.", _cost(found.bill), *_contradictions(found)]
    told = [_choice(found, found.chosen), *_race(found, found.chosen)]
    told += _end_of_ladder(found.question, found.chosen)
    told += _bolder(found, found.chosen)
    told += [_cost(found.bill), *_warnings(found, found.chosen)]
    return told


def no_calm(found: Found) -> str:
    """Say that no trial was calm to its end, which were not, and what to change."""
    decided = [one for one in found.seen if one.is_decided]
    tried = "; ".join(one.trial.label for one in decided if not one.is_calm)
    calm = [one.trial.setting for one in decided if one.is_calm and one.trial.setting.opening]
    starts = " and ".join(f"start {setting.start}" for setting in calm)
    told = f"no trial stayed calm for {WARMUPS} warm-ups ({tried})"
    if calm:
        told += f"; {starts} {'were' if len(calm) > 1 else 'was'} calm for {OPENING_WARMUPS} alone"
    return f"{told}: {way_out(found.question)}"


def _end_of_ladder(question: Question, chosen: Setting) -> list[str]:
    """Say that the budget has room for no longer T, where a longer one would have been tried."""
    plain = Setting(chosen.start, chosen.multiple)
    if chosen.multiple == MULTIPLES[-1] or question.space.ladder(chosen.start)[-1] != plain:
        return []
    share, most = question.warmup_share(plain), f"{100 * WARMUP_SHARE:.0f} % of it"
    why = f"at most {most} may be trained before full length is reached, and with this T"
    why += f" {100 * share:.0f} % are"
    if share > WARMUP_SHARE:  # the shortest T is tried whatever the budget is
        why = f"even this one takes more than {most} before full length is reached"
    return [f"The budget leaves no room for a longer T: {why}."]


def way_out(question: Question) -> str:
    """Say what to change where no trial was calm: only what there is room for."""
    given, longest = question.config, question.space.starts[-1]
    lower = [f"optimizer.learning_rate ({given.optimizer.learning_rate:g})"]
    lower += [f"batch.rows ({given.batch.rows})"] * (given.batch.rows > 1)
    ways = [f"lower {' or '.join(lower)}", f"raise optimizer.warmup_steps ({question.warmup})"]
    if 2 * longest < given.pacing.end:
        ways.append(f"try longer starts with --starts {2 * longest}")
    return f"{', '.join(ways[:-1])}, or {ways[-1]}"


def _choice(found: Found, chosen: Setting) -> str:
    plain = Setting(chosen.start, chosen.multiple)
    shown = {one.trial.setting: one.judgement.why for one in found.seen}
    return (
        f"Start {chosen.start} and T = {found.duration} steps ({chosen.multiple} warm-ups): over "
        f"its first {WARMUPS} warm-ups the validation perplexity was {shown[plain]}."
    )


def _race(found: Found, chosen: Setting) -> list[str]:
    """Say how the race ended, or why there was none."""
    known = losses(found.seen)
    entries = race(found.question.space, known)
    if not entries:
        return [_no_race(found.question.space, chosen)]
    ends = {one.start: known[raced(one)] for one in entries}
    ended = ", ".join(f"start {start} {perplexity(loss)}" for start, loss in ends.items())
    told = [
        f"The perplexity after a race of {found.question.race:,} tokens, {100 * RACE_SHARE:g} % of "
        f"the budget, with T = {entries[0].multiple * found.question.warmup}: {ended}. A longer "
        f"start wins unless its own is more than {100 * expm1(BEHIND):.0f} % higher."
    ]
    if not isfinite(ends.get(chosen.start, 0.0)):
        told.append(
            f"Start {chosen.start} was calm for {WARMUPS} warm-ups and not in its race: "
            f"{way_out(found.question)}."
        )
    return told


def _no_race(space: Space, chosen: Setting) -> str:
    why = "the budget has no room for one"
    if space.starts[-1] < RIVAL * chosen.start:
        why = f"no start that may be tried is {RIVAL} times as long"
    return f"There was no race, since {why}: longer starts were not compared."


def perplexity(loss: float) -> str:
    """Return the perplexity of a loss in nats, for people."""
    # Of a loss that is out of proportion it would be a number of many digits.
    return number(exp(loss), 1) if loss < 20 else f"e^{loss:.0f}" if isfinite(loss) else "not calm"


def _bolder(found: Found, chosen: Setting) -> list[str]:
    if not found.question.space.aggressive:
        return _room_for_more(found, chosen)
    tuned = found.question.training(chosen)
    rate, rows = tuned.optimizer.learning_rate, tuned.batch.rows
    return [
        f"With it the largest learning rate that stayed calm is {rate:g} ({chosen.rate} x what "
        f"was given{_limit(reached=chosen.rate == MOST_RATE)}), and with that the most rows are "
        f"{rows} ({chosen.rows} x what was given{_limit_of_rows(found.question.space, chosen)})."
    ]


def _room_for_more(found: Found, chosen: Setting) -> list[str]:
    """Say that more is possible, where nothing was unstable but for a warmup that was too slow."""
    known = losses(found.seen)
    hint = "a larger learning rate or batch may be possible: --aggressive looks for it."
    if all(map(isfinite, known.values())):
        return [f"Every trial was calm, so {hint}"]
    # What is not calm at a large T alone has trained on short text for too long.
    first = Setting(found.question.space.starts[0], chosen.multiple)
    wild = any(setting.raced and not isfinite(loss) for setting, loss in known.items())
    if isfinite(known.get(first, inf)) and first.multiple >= FIRST and not wild:
        return [f"The first start was calm at once, so {hint}"]
    return []


def _limit(*, reached: bool) -> str:
    return ", no more is tried" if reached else ""


def _limit_of_rows(space: Space, chosen: Setting) -> str:
    more = space.with_more_rows(chosen)
    if more is None and chosen.rows < MOST_ROWS:
        return ", the budget has no room for more"
    return _limit(reached=more is None)


def trials_of(bill: Bill) -> str:
    """Return how many trials there were, in words."""
    return f"{bill.trials} trial{'s' * (bill.trials > 1)}"


def _cost(bill: Bill) -> str:
    training = bill.training
    whole = f"{training.steps:,} steps, {training.tokens:,} tokens, {training.flops:.3g} FLOP"
    share = "" if bill.second_share is None else f" (about {100 * bill.second_share:.1f} %)"
    told = (
        f"{trials_of(bill)} cost {bill.tokens:,} tokens ({100 * bill.token_share:.1f} % of one "
        f"training: {whole}), with evaluation {bill.flops:.3g} FLOP "
        f"({100 * bill.flop_share:.1f} %) and {bill.seconds:.0f} seconds{share}"
    )
    if bill.beside.seconds:
        told += f", {bill.beside.seconds:.0f} of them to start, save and watch processes"
    if bill.beside.redone.tokens:
        told += f"; {bill.beside.redone.tokens:,} tokens were trained twice, behind a kill"
    return f"{told}."


def _warnings(found: Found, chosen: Setting) -> list[str]:
    told = []
    tuned = found.question.training(chosen)
    tuned = with_overrides(tuned, {"budget": {"tokens": found.question.budget}})
    if tuned.pacing.end == tuned.model.length and plan(tuned, tuned.model.length).full is None:
        early = "Even with this T the budget ends before full length is reached"
        told.append(f"{early}: raise the budget, or lower optimizer.warmup_steps.")
    told += _contradictions(found)
    if len(found.threads) > 1:
        counts = " and ".join(map(str, found.threads))
        told.append(f"The trials had {counts} threads: equal to rounding, not to the last digit.")
    return told


def _contradictions(found: Found) -> list[str]:
    known = losses(found.seen)
    labels = {one.trial.setting: one.trial.label for one in found.seen}
    return [
        f"{labels[setting]} was not calm, and {labels[wilder]} was: calmness is not monotone "
        "here, so take the choice with care."
        for setting, wilder in against_monotony(known)
    ]

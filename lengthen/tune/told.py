"""What a search has found, said: sentences, a table, a panel, facts for another program."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, expm1
from typing import Any

from lengthen.picture import Curve, Panel
from lengthen.plan import plan
from lengthen.settings import changed
from lengthen.tables import Table, number
from lengthen.tune.bill import Bill
from lengthen.tune.calm import RISE
from lengthen.tune.question import (
    OPENING_WARMUPS,
    RACE_SHARE,
    SPREAD,
    WARMUP_SHARE,
    WARMUPS,
    Question,
    resolution,
)
from lengthen.tune.search import (
    BEHIND,
    FIRST,
    MOST_RATE,
    MOST_ROWS,
    MULTIPLES,
    Setting,
    Space,
    against_monotony,
)
from lengthen.tune.trials import LAST_LOOKS, Seen


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
    told = [_choice(found, found.chosen), *_race(found)]
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


def _race(found: Found) -> list[str]:
    """Say how a race ended, where there was one."""
    entries = [one for one in found.seen if one.is_decided and one.trial.setting.raced]
    if not entries:
        return []
    ended = ", ".join(f"start {one.trial.setting.start} {_perplexity(one)}" for one in entries)
    return [
        f"The perplexity after a race of {found.question.race:,} tokens, {100 * RACE_SHARE:g} % of "
        f"the budget: {ended}. A longer start is taken unless its own is more than "
        f"{100 * expm1(BEHIND):.0f} % higher."
    ]


def _perplexity(one: Seen) -> str:
    return number(exp(one.loss), 1) if one.is_calm else one.judgement.word


def _bolder(found: Found, chosen: Setting) -> list[str]:
    if not found.question.space.aggressive:
        return _room_for_more(found, chosen)
    tuned = found.question.training(chosen)
    rate, rows = tuned.optimizer.learning_rate, tuned.batch.rows
    return [
        f"With it the largest learning rate that stayed calm is {rate:g} ({_times(chosen.rate)}"
        f"{_limit(reached=chosen.rate == MOST_RATE)}), and with that the most rows are {rows} "
        f"({_times(chosen.rows)}{_limit_of_rows(found.question.space, chosen)})."
    ]


def _room_for_more(found: Found, chosen: Setting) -> list[str]:
    """Say that more is possible, where nothing was unstable but for a warmup that was too slow."""
    known = {one.trial.setting: one.is_calm for one in found.seen if one.is_decided}
    hint = "a larger learning rate or batch may be possible: --aggressive looks for it."
    if all(known.values()):
        return [f"Every trial was calm, so {hint}"]
    # What is not calm at a large T alone has trained on short text for too long.
    first = Setting(found.question.space.starts[0], chosen.multiple)
    if known.get(first) and first.multiple >= FIRST:
        return [f"The first start was calm at once, so {hint}"]
    return []


def _times(factor: int) -> str:
    return f"{factor} x what was given"


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
    tuned = changed(tuned, {"budget": {"tokens": found.question.budget}})
    if tuned.pacing.end == tuned.model.length and plan(tuned, tuned.model.length).full is None:
        early = "Even with this T the budget ends before full length is reached"
        told.append(f"{early}: raise the budget, or lower optimizer.warmup_steps.")
    told += _contradictions(found)
    if len(found.threads) > 1:
        counts = " and ".join(map(str, found.threads))
        told.append(f"The trials had {counts} threads: equal to rounding, not to the last digit.")
    return told


def _contradictions(found: Found) -> list[str]:
    known = {one.trial.setting: one.loss for one in found.seen if one.is_decided}
    labels = {one.trial.setting: one.trial.label for one in found.seen}
    return [
        f"{labels[setting]} was not calm, and {labels[wilder]} was: calmness is not monotone "
        "here, so take the choice with care."
        for setting, wilder in against_monotony(known)
    ]


def trials_table(found: Found) -> Table:
    """Return a row for each trial."""
    rows = []
    for one in found.seen:
        config = one.trial.config
        rows.append(
            (
                one.trial.label,
                f"{config.optimizer.learning_rate:g}",
                str(config.batch.rows),
                one.judgement.word if one.is_decided else "not needed",
                one.judgement.rise,
                _perplexity(one) if one.trial.setting.raced and one.is_decided else "-",
                f"{one.steps:,}",
                f"{one.work.tokens:,}",
                number(one.work.seconds, 1),
            )
        )
    columns = ("trial", "rate", "rows", "verdict", "largest rise", "perplexity", "steps", "tokens")
    judged, calm = found.question.judged, found.question.read(found.seen[0].trial.setting)
    return Table(
        "Trials",
        (*columns, "seconds"),
        tuple(rows),
        f"Not calm: validation perplexity above {RISE} x the lowest so far, or not finite. Each "
        f"evaluation reads the same tokens: {judged:,} in a race, on which differences of "
        f"{100 * resolution(judged):.1f} % are two standard errors {SPREAD}, else {calm:,}. First "
        f"the first start with the longest T. Stage 1: T = {FIRST} warm-ups, the start rises until "
        f"its beginning is calm, {OPENING_WARMUPS} warm-ups; stage 2: the largest T that is calm "
        f"for {WARMUPS}; stage 3, the race: after {found.question.race:,} tokens the perplexity of "
        f"the mean loss of its last {LAST_LOOKS} evaluations; then stage 2 again for a start that "
        "won. Seconds are of training and evaluating.",
    )


def curve_name(one: Seen) -> str:
    """Return what a trial's curves are called in every figure."""
    return f"{one.trial.label}: {one.judgement.word}"


def panels(found: Found) -> list[Panel]:
    """Return the validation perplexity of every trial, its verdict in its name; races apart."""
    early = [one for one in found.seen if not one.trial.setting.raced]
    races = [one for one in found.seen if one.trial.setting.raced]
    # Panels with the same words for their x share its range, and races are far longer.
    told = [_panel("Early validation perplexity of the trials", "step", "step of a trial", early)]
    if races:
        told.append(_panel("Validation perplexity in the race", "tokens", "tokens", races))
    return told


def _panel(title: str, clock: str, x: str, trials: Sequence[Seen]) -> Panel:
    curves = [
        Curve(
            curve_name(one),
            [
                (record[clock], record["perplexity"])
                for record in one.metrics.of("eval")
                if record["perplexity"] is not None
            ],
        )
        for one in trials
    ]
    return Panel(title, x, "perplexity", curves, log_y=True)


def facts(found: Found) -> dict[str, Any]:
    """Return all of it for another program; shares are of one training, 1 is all of it."""
    bill = found.bill
    spent = {
        "trials": bill.trials,
        "tokens": bill.tokens,
        "validation_tokens": bill.work.judged,
        "flops": bill.flops,
        "seconds": bill.seconds,
        "seconds_beside_computing": bill.beside.seconds,
        "tokens_trained_twice": bill.beside.redone.tokens,
    }
    shares = {"tokens": bill.token_share, "flops": bill.flop_share, "seconds": bill.second_share}
    training = {
        "steps": bill.training.steps,
        "tokens": bill.training.tokens,
        "flops": bill.training.flops,
        "seconds": bill.training_seconds,
    }
    return {
        "chosen": None if found.chosen is None else _chosen(found, found.chosen),
        "trials": [_fact(one, found.question.warmup) for one in found.seen],
        "cost": spent,
        "training": training,
        "share": shares,
        "verdicts": sentences(found),
    }


def _chosen(found: Found, chosen: Setting) -> dict[str, object]:
    tuned = found.question.training(chosen)
    return {
        "start": chosen.start,
        "duration": found.duration,
        "warmups": chosen.multiple,
        "learning_rate": tuned.optimizer.learning_rate,
        "rows": tuned.batch.rows,
    }


def _fact(one: Seen, warmup: int) -> dict[str, object]:
    return {
        "run": one.trial.name,
        **asdict(one.trial.setting),
        "duration": one.trial.setting.multiple * warmup,
        "verdict": one.judgement.word,
        "why": one.judgement.why,
        "loss": one.loss if one.is_calm else None,
        "steps": one.steps,
        "tokens": one.work.tokens,
        "seconds": one.work.seconds,
        "flops": one.work.flops,
    }

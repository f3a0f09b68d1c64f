"""What a search has found, said: sentences, a table, a panel, facts for another program."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lengthen.picture import Curve, Panel
from lengthen.tables import Table, number
from lengthen.tune.bill import Bill
from lengthen.tune.calm import RISE
from lengthen.tune.question import WARMUPS, Question, resolution
from lengthen.tune.search import FIRST, MOST_RATE, Setting, against_monotony
from lengthen.tune.trials import Seen


@dataclass(frozen=True)
class Found:
    """A search that is over."""

    question: Question
    chosen: Setting | None
    seen: Sequence[Seen]  # in the order in which they were begun
    bill: Bill

    @property
    def duration(self) -> int:
        """The chosen duration T, in steps."""
        assert self.chosen is not None
        return self.chosen.multiple * self.question.warmup


def sentences(found: Found) -> list[str]:
    """Return the choice, what it rests on, and what it cost."""
    if found.chosen is None:
        return [f"Not one start was calm: {way_out(found.question)}.", _cost(found.bill)]
    told = [_choice(found, found.chosen)]
    told += _bolder(found, found.chosen)
    told += [_cost(found.bill), *_warnings(found, found.chosen)]
    return told


def way_out(question: Question) -> str:
    """Say what to lower where no trial was calm."""
    given = question.config
    return (
        f"lower optimizer.learning_rate ({given.optimizer.learning_rate:g}) or batch.rows "
        f"({given.batch.rows}), or raise optimizer.warmup_steps ({question.warmup})"
    )


def _choice(found: Found, chosen: Setting) -> str:
    plain = Setting(chosen.start, chosen.multiple)
    why = next(one.judgement.why for one in found.seen if one.trial.setting == plain)
    return (
        f"Start {chosen.start} and T = {found.duration} steps ({chosen.multiple} warm-ups): over "
        f"its first {WARMUPS} warm-ups the validation perplexity was {why}."
    )


def _bolder(found: Found, chosen: Setting) -> list[str]:
    if not found.question.space.aggressive:
        calm = all(one.is_calm for one in found.seen if one.is_decided)
        hint = "a larger learning rate or batch is possible: --aggressive looks for it."
        return [f"Every trial was calm, so {hint}"] if calm else []
    tuned = found.question.training(chosen)
    rate, rows = tuned.optimizer.learning_rate, tuned.batch.rows
    most = found.question.space.most_rows
    return [
        f"With it the largest learning rate that stayed calm is {rate:g} "
        f"({_times(chosen.rate, MOST_RATE)}), and with that the most rows are {rows} "
        f"({_times(chosen.rows, most)})."
    ]


def _times(factor: int, most: int) -> str:
    limit = ", no more is tried" if factor == most else ""
    return f"{factor} x what was given{limit}"


def _cost(bill: Bill) -> str:
    training = bill.training
    whole = f"{training.steps:,} steps, {training.tokens:,} tokens, {training.flops:.3g} FLOP"
    share = "" if bill.second_share is None else f" (about {100 * bill.second_share:.1f} %)"
    return (
        f"{bill.trials} trials cost {bill.tokens:,} tokens ({100 * bill.token_share:.1f} % of one "
        f"training: {whole}), with evaluation {bill.flops:.3g} FLOP "
        f"({100 * bill.flop_share:.1f} %) and {bill.seconds:.0f} seconds{share}."
    )


def _warnings(found: Found, chosen: Setting) -> list[str]:
    told = []
    if found.bill.training.full is None:
        told.append("With this T the budget ends before full length is reached: raise the budget.")
    known = {one.trial.setting: one.is_calm for one in found.seen if one.is_decided}
    for setting in against_monotony(known, chosen):
        word = "calm" if known[setting] else "not calm"
        told.append(
            f"T = {setting.multiple * found.question.warmup} was {word} all the same, in a trial "
            "that the search did not need: calmness is not monotone here, so take T with care."
        )
    return told


def trials_table(found: Found) -> Table:
    """Return a row for each trial."""
    rows = []
    for one in found.seen:
        config, setting = one.trial.config, one.trial.setting
        rows.append(
            (
                str(setting.start),
                str(setting.multiple * found.question.warmup),
                f"{config.optimizer.learning_rate:g}",
                str(config.batch.rows),
                one.judgement.word,
                one.judgement.why if one.is_decided else f"not needed, {one.judgement.why}",
                f"{one.steps:,}",
                f"{one.tokens:,}",
                number(one.seconds, 1),
            )
        )
    columns = ("start", "T", "rate", "rows", "verdict", "why", "steps", "tokens", "seconds")
    judged = found.question.judged
    return Table(
        "Trials",
        columns,
        tuple(rows),
        f"Not calm: validation perplexity above {RISE} x the lowest so far, or not finite. Each "
        f"evaluation reads the same {judged:,} tokens, on which differences of "
        f"{100 * resolution(judged):.1f} % are two standard errors. Stage 1: T = "
        f"{FIRST} warm-ups, the start rises; stage 2: the largest T that is calm.",
    )


def perplexity_panel(found: Found) -> Panel:
    """Return the early validation perplexity of every trial, its verdict in its name."""
    curves = [
        Curve(
            f"{one.trial.label}: {one.judgement.word}",
            [
                (record["step"], record["perplexity"])
                for record in one.metrics.of("eval")
                if record["perplexity"] is not None
            ],
        )
        for one in found.seen
    ]
    title = "Early validation perplexity of the trials"
    return Panel(title, "step", "perplexity", curves, log_y=True)


def facts(found: Found) -> dict[str, Any]:
    """Return all of it for another program; shares are of one training, 1 is all of it."""
    bill = found.bill
    spent = {
        "trials": bill.trials,
        "tokens": bill.tokens,
        "validation_tokens": bill.judged,
        "flops": bill.flops,
        "seconds": bill.seconds,
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
        "steps": one.steps,
        "tokens": one.tokens,
        "seconds": one.seconds,
        "flops": one.flops,
    }

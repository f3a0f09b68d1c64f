"""What a search has found, shown: a table, panels, facts for another program."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lengthen.experiments.tune.problem import OPENING_WARMUPS, SPREAD, WARMUPS, resolution
from lengthen.experiments.tune.search import FIRST, Setting
from lengthen.experiments.tune.stability import RISE
from lengthen.experiments.tune.summary import Found, perplexity, sentences
from lengthen.experiments.tune.trials import LAST_LOOKS, Seen
from lengthen.reporting.curves import Curve, Panel
from lengthen.util.tables import Table, number


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
                perplexity(one.loss) if one.trial.setting.raced and one.is_calm else "-",
                f"{one.steps:,}",
                f"{one.work.tokens:,}",
                number(one.work.seconds, 1),
            )
        )
    columns = ("trial", "rate", "rows", "verdict", "largest rise", "perplexity", "steps", "tokens")
    judged, first = found.question.judged, Setting(found.question.space.starts[0], FIRST)
    return Table(
        "Trials",
        (*columns, "seconds"),
        tuple(rows),
        f"Not calm: validation perplexity above {RISE} x the lowest so far, or not finite. Each "
        f"evaluation reads the same {found.question.read(first):,} tokens, {judged:,} in a race; "
        f"on those, differences of {100 * resolution(judged):.1f} % are two standard errors "
        f"{SPREAD}, and another seed moves it more. First the first start with the longest T. "
        f"Where that is not calm: with T = {FIRST} warm-ups the start rises until its beginning "
        f"is calm, {OPENING_WARMUPS} warm-ups, then the largest T that is calm for {WARMUPS}. Then "
        f"the race: perplexity is that of the mean loss of the last {LAST_LOOKS} evaluations. Then "
        "a larger T again for a start that won. Seconds are of training and evaluating.",
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
                (getattr(record, clock), record.perplexity)
                for record in one.metrics.evaluations
                if record.perplexity is not None
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

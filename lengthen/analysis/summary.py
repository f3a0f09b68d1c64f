"""What metrics.jsonl says about a run; needs no model and no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lengthen.analysis.instability import Ratios, ratios_of
from lengthen.core.loss_ratio import UNSTABLE
from lengthen.run.metrics import Metrics
from lengthen.run.records import EvalRecord, Measurement, ObservationRecord, ProbeRecord, StepRecord
from lengthen.util.errors import DataError
from lengthen.util.stats import Correlation, pearson

QUANTITIES = ("variance_norm", "variance_max", "grad_norm")  # what the loss ratio may go with
LAGS = (0, 1)  # steps from the quantity to the ratio
SAME = {"tokenizer": "tokenizers", "valid": "validation sets"}  # in what compared runs agree


@dataclass(frozen=True)
class Correlated:
    """How the loss ratio goes with a quantity `lag` logged steps before."""

    quantity: str
    lag: int
    correlation: Correlation | None  # None: fewer than 3 pairs, or one of both never changes


@dataclass(frozen=True)
class Side:
    """What evaluations, probes or observations cost besides training; in no other count."""

    count: int
    tokens: float | None  # None: the log does not say
    seconds: float | None


@dataclass(frozen=True)
class Summary:
    """A run in figures; losses in nats per token."""

    steps: int  # the number of the last one
    tokens: float | None
    seconds: float | None
    last_loss: float | None  # validation
    best_loss: float | None
    best_step: int | None
    ratios: Ratios
    probe: Ratios | None  # None: no probe was taken
    stable: bool  # the judge's ratio never exceeded 1.2, and no step was not finite
    judged_by: str  # "probe", "steps" where no probe has a ratio, "nothing" where there are neither
    why_diverged: str  # empty where the weights at the end give a finite loss
    correlations: tuple[Correlated, ...]
    peaks: tuple[float | None, ...]  # the largest value of each of QUANTITIES
    probing: Side
    evaluating: Side
    observing: Side  # of an adaptive pacing
    unreadable: int  # lines of the log


def first_at_or_below(evaluations: Iterable[EvalRecord], loss: float) -> EvalRecord | None:
    """Return the first evaluation with a loss of at most `loss`; None where it was not reached."""
    return next((e for e in evaluations if e.loss is not None and e.loss <= loss), None)


def best_loss(evaluations: Iterable[EvalRecord]) -> float | None:
    """Return the lowest finite validation loss, in nats per token."""
    return min((e.loss for e in evaluations if e.loss is not None), default=None)


def correlations(steps: Sequence[StepRecord]) -> tuple[Correlated, ...]:
    """Correlate the loss ratio with each of QUANTITIES, of the same step and of the one before.

    A spike makes large gradients, which raise the variance: that a variance comes *before* its
    spike says more than that both come together (paper, section 4.1, has the latter alone).
    """
    return tuple(
        Correlated(quantity, lag, _correlation(steps, quantity, lag))
        for quantity in QUANTITIES
        for lag in LAGS
    )


def _correlation(steps: Sequence[StepRecord], quantity: str, lag: int) -> Correlation | None:
    values = (getattr(step, quantity) for step in steps)
    both = zip(values, (step.loss_ratio for step in steps[lag:]), strict=False)
    pairs = [(value, ratio) for value, ratio in both if value is not None and ratio is not None]
    return pearson([value for value, _ in pairs], [ratio for _, ratio in pairs])


def summarise(metrics: Metrics) -> Summary:
    """Return what a log says; raises DataError where it has neither a step nor an evaluation."""
    steps, probes, evaluations = metrics.steps, metrics.probes, metrics.evaluations
    if not (steps or evaluations):
        raise DataError("a run without steps")
    last = (steps or evaluations)[-1]
    ratios = ratios_of(steps)
    probe = ratios_of(probes) if probes else None
    # A single finite probe has no earlier one to be compared with: it judges nothing.
    judges = probe is not None and (probe.largest is not None or probe.not_finite > 0)
    judge = probe if probe is not None and judges else ratios
    best = best_loss(evaluations)
    reached = None if best is None else first_at_or_below(evaluations, best)
    return Summary(
        steps=last.step,
        tokens=last.tokens,
        seconds=last.seconds,
        last_loss=evaluations[-1].loss if evaluations else None,
        best_loss=best,
        best_step=None if reached is None else reached.step,
        ratios=ratios,
        probe=probe,
        stable=judge.above_papers == 0 and ratios.not_finite == 0,
        judged_by="probe" if judges else "steps" if steps else "nothing",
        why_diverged=why_diverged(metrics),
        correlations=correlations(steps),
        peaks=tuple(max(_known(steps, quantity), default=None) for quantity in QUANTITIES),
        probing=_side(probes),
        evaluating=_side(evaluations),
        observing=_side(metrics.observations),
        unreadable=metrics.unreadable,
    )


def why_diverged(metrics: Metrics) -> str:
    """Return why a run counts as diverged, empty where it does not; every reader asks here.

    A skipped step leaves the weights as they were. So an evaluation after the last step, which is
    of the weights at the end, decides alone. Without one, the run diverged where its last step was
    not finite, unless the trainer continued after it.
    """
    final = metrics.evaluations[-1] if metrics.evaluations else None
    last = metrics.steps[-1] if metrics.steps else None
    is_of_the_end = final is not None and (last is None or final.step >= last.step)
    if last is not None and not last.is_finite and not is_of_the_end:
        skips = (event for event in metrics.events if event.name == "skipped")
        if False not in [skip.facts.get("diverged") for skip in skips if skip.step == last.step]:
            return f"the last step, {last.step:,}, is not finite"
    if final is not None and final.loss is None:
        return "the last validation loss is not finite"
    return ""


def _side(records: Sequence[EvalRecord | ProbeRecord | ObservationRecord]) -> Side:
    tokens, seconds = (_known(records, name) for name in ("side_tokens", "side_seconds"))
    return Side(len(records), sum(tokens) if tokens else None, sum(seconds) if seconds else None)


def _known(records: Sequence[Measurement], name: str) -> list[float]:
    return [value for record in records if (value := getattr(record, name)) is not None]


def verdict_line(summary: Summary) -> str:
    """Say in one sentence whether a run was stable, and what that rests on."""
    if summary.judged_by == "nothing":
        return summary.why_diverged or "no training loss is logged, which could tell its stability"
    word = "stable" if summary.stable else "unstable"
    steps = _steps_text(summary.ratios)
    if summary.judged_by == "steps" or summary.probe is None:
        line = f"{word}, judged by the steps for want of a probe's ratio: {steps}"
    else:
        reasons = [_probe_text(summary.probe), steps]
        if not summary.stable and summary.ratios.above_papers:
            reasons.reverse()
        line = f"{word}: {'; '.join(reasons)}"
    return f"diverged: {summary.why_diverged}; {line}" if summary.why_diverged else line


def _steps_text(ratios: Ratios) -> str:
    if not ratios.above_papers:
        calm = f"no step of {ratios.count:,} above {UNSTABLE}"
        if ratios.largest is None:
            return f"{calm}, and none has a ratio"
        return f"{calm}, largest ratio {ratios.largest:.2f} at step {ratios.largest_step:,}"
    worst = ratios.spikes[0]
    length = "" if worst.length is None else f" (length {worst.length:,.0f})"
    height = "not finite" if worst.ratio is None else f"{worst.ratio:.2f}"
    steps = "step" if ratios.above_papers == 1 else "steps"
    line = f"{ratios.above_papers:,} {steps} of {ratios.count:,} above {UNSTABLE}"
    of_them = f", {ratios.marked:,} of them at a changed length or with joined rows"
    where = of_them if ratios.marked else ""
    return f"{line}, worst {height} at step {worst.step:,}{length}{where}"


def _probe_text(probe: Ratios) -> str:
    if probe.not_finite:
        return f"the probe was not finite at step {probe.spikes[0].step:,}"
    reached = f"{probe.largest:.2f} at step {probe.largest_step:,}"
    if probe.above_papers:
        return f"the probe's ratio reached {reached}"
    return f"the probe never rose above {UNSTABLE} times its lowest (largest {reached})"


def must_be_comparable(environments: Mapping[str, Mapping[str, object]]) -> None:
    """Raise DataError where two runs, by name, have different tokenizers or validation sets.

    Their losses are then of different things. `environments` are the runs' environment.json.
    """
    for field, things in SAME.items():
        known = {name: e[field] for name, e in environments.items() if e.get(field) is not None}
        first = next(iter(known), "")
        if other := next((name for name in known if known[name] != known[first]), None):
            what = f"{first} and {other} have different {things} (SHA-256 in environment.json)"
            raise DataError(f"not comparable: {what}; report them apart")

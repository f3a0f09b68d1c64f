"""What metrics.jsonl says about a run; needs no model and no torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lengthen.analysis.instability import PAPERS, Ratios, figure, height, numbered, ratios_of
from lengthen.core.loss_ratio import SKIPS_IN_A_ROW, UNSTABLE
from lengthen.run.directory import Metrics, Record
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
class Reached:
    """The first evaluation at or below a loss."""

    step: int
    tokens: float | None
    seconds: float | None  # of training


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
    judged_by: str  # "probe", or "steps" where no probe has a ratio
    why_diverged: str  # empty where it did not
    correlations: tuple[Correlated, ...]
    peaks: tuple[float | None, ...]  # the largest value of each of QUANTITIES
    probing: Side
    evaluating: Side
    observing: Side  # of an adaptive pacing
    unreadable: int  # lines of the log

    @property
    def diverged(self) -> bool:
        """Whether the run ended with weights that give no finite loss."""
        return bool(self.why_diverged)


def first_at_or_below(evaluations: Iterable[Record], loss: float) -> Record | None:
    """Return the first evaluation with a loss of at most `loss`; None where it was not reached."""
    losses = ((evaluation, figure(evaluation, "loss")) for evaluation in evaluations)
    return next((e for e, reached in losses if reached is not None and reached <= loss), None)


def best_loss(evaluations: Iterable[Record]) -> float | None:
    """Return the lowest finite validation loss, in nats per token."""
    losses = (figure(evaluation, "loss") for evaluation in evaluations)
    return min((loss for loss in losses if loss is not None), default=None)


def correlations(steps: Sequence[Record]) -> tuple[Correlated, ...]:
    """Correlate the loss ratio with each of QUANTITIES, of the same step and of the one before.

    A spike makes large gradients, which raise the variance: that a variance comes *before* its
    spike says more than that both come together (paper, section 4.1, has the latter alone).
    """
    ratios = [figure(step, "loss_ratio") for step in steps]
    found = []
    for quantity in QUANTITIES:
        values = [figure(step, quantity) for step in steps]
        found += [Correlated(quantity, lag, _correlation(values, ratios[lag:])) for lag in LAGS]
    return tuple(found)


def _correlation(x: Sequence[float | None], y: Sequence[float | None]) -> Correlation | None:
    pairs = [(a, b) for a, b in zip(x, y, strict=False) if a is not None and b is not None]
    return pearson([a for a, _ in pairs], [b for _, b in pairs])


def time_to(metrics: Metrics, losses: Iterable[float]) -> list[Reached | None]:
    """Return for each loss, in nats, when an evaluation was first at or below it, or None."""
    evaluations = numbered(metrics.of("eval"))
    reached = (first_at_or_below(evaluations, loss) for loss in losses)
    return [
        None if at is None else Reached(at["step"], figure(at, "tokens"), figure(at, "seconds"))
        for at in reached
    ]


def summarise(metrics: Metrics, on_nonfinite: str = "stop") -> Summary:
    """Return what a log says; raises DataError where it has no step.

    `on_nonfinite` is the run's setting of that name.
    """
    steps, probes, evaluations = (numbered(metrics.of(k)) for k in ("step", "probe", "eval"))
    if not steps:
        raise DataError("a run without steps")
    ratios = ratios_of(steps)
    probe = ratios_of(probes) if probes else None
    # A single finite probe has no earlier one to be compared with: it judges nothing.
    judges = probe is not None and (probe.largest is not None or probe.not_finite > 0)
    judge = probe if probe is not None and judges else ratios
    best = best_loss(evaluations)
    reached = None if best is None else first_at_or_below(evaluations, best)
    return Summary(
        steps=steps[-1]["step"],
        tokens=figure(steps[-1], "tokens"),
        seconds=figure(steps[-1], "seconds"),
        last_loss=figure(evaluations[-1], "loss") if evaluations else None,
        best_loss=best,
        best_step=None if reached is None else reached["step"],
        ratios=ratios,
        probe=probe,
        stable=judge.beyond == 0 and ratios.not_finite == 0,
        judged_by="probe" if judges else "steps",
        why_diverged=why_diverged(metrics, on_nonfinite),
        correlations=correlations(steps),
        peaks=tuple(_peak(steps, quantity) for quantity in QUANTITIES),
        probing=_side(probes),
        evaluating=_side(evaluations),
        observing=_side(metrics.of("observation")),
        unreadable=metrics.unreadable,
    )


def _peak(steps: Sequence[Record], quantity: str) -> float | None:
    values = (figure(step, quantity) for step in steps)
    return max((value for value in values if value is not None), default=None)


def why_diverged(metrics: Metrics, on_nonfinite: str = "stop") -> str:
    """Return why a run counts as diverged, empty where it does not; every reader asks here.

    A skipped step leaves the weights as they were. So an evaluation after the last step, which is
    of the weights at the end, decides alone. Without one, the run diverged where its last steps
    were not finite as often in a row as ends a run with this `on_nonfinite`.
    """
    steps, evaluations = (numbered(metrics.of(kind)) for kind in ("step", "eval"))
    final = evaluations[-1] if evaluations else None
    is_of_the_end = final is not None and (not steps or final["step"] >= steps[-1]["step"])
    most = SKIPS_IN_A_ROW if on_nonfinite == "skip" else 1
    tail = [step for step in steps[-most:] if height(step) == math.inf]
    if len(tail) == most and not is_of_the_end:
        return f"the last step, {tail[-1]['step']:,}, is not finite"
    if final is not None and figure(final, "loss") is None:
        return "the last validation loss is not finite"
    return ""


def _side(records: Sequence[Record]) -> Side:
    return Side(len(records), _total(records, "side_tokens"), _total(records, "side_seconds"))


def _total(records: Sequence[Record], name: str) -> float | None:
    values = [value for value in (figure(r, name) for r in records) if value is not None]
    return sum(values) if values else None


def verdict_line(summary: Summary) -> str:
    """Say in one sentence whether a run was stable, and what that rests on."""
    steps = _said_of_steps(summary.ratios)
    if summary.judged_by == "steps" or summary.probe is None:
        word = "stable" if summary.stable else "unstable"
        parts = [f"{word}, judged by the steps for want of a probe's ratio: {steps}"]
    elif summary.stable:
        parts = [f"stable: {_said_of_probe(summary.probe)}", steps]
    elif summary.ratios.beyond:
        parts = [f"unstable: {steps}", _said_of_probe(summary.probe)]
    else:
        parts = [f"unstable: {_said_of_probe(summary.probe)}", steps]
    if summary.diverged:
        parts = [f"diverged: {summary.why_diverged}", *parts]
    return "; ".join(parts)


def _said_of_steps(ratios: Ratios) -> str:
    if not ratios.beyond:
        calm = f"no step of {ratios.count:,} above {UNSTABLE}"
        if ratios.largest is None:
            return f"{calm}, and none has a ratio"
        return f"{calm}, largest ratio {ratios.largest:.2f} at step {ratios.largest_step:,}"
    worst = ratios.spikes[0]
    length = "" if worst.length is None else f" (length {worst.length:,.0f})"
    height = "not finite" if worst.ratio is None else f"{worst.ratio:.2f}"
    steps = "step" if ratios.beyond == 1 else "steps"
    line = f"{ratios.beyond:,} {steps} of {ratios.count:,} above {UNSTABLE}"
    marked = ratios.marked[PAPERS]
    where = f", {marked:,} of them at a changed length or with joined rows" if marked else ""
    return f"{line}, worst {height} at step {worst.step:,}{length}{where}"


def _said_of_probe(probe: Ratios) -> str:
    if probe.not_finite:
        return f"the probe was not finite at step {probe.spikes[0].step:,}"
    if probe.largest is None:
        return "the probe has no ratio yet"
    reached = f"{probe.largest:.2f} at step {probe.largest_step:,}"
    if probe.beyond:
        return f"the probe's ratio reached {reached}"
    return f"the probe never rose above {UNSTABLE} times its lowest (largest {reached})"


def comparable(environments: Mapping[str, Record]) -> list[str]:
    """Check that runs, by name, can be compared; return notes on what could not be checked.

    `environments` are the runs' environment.json. Raises DataError where two runs have different
    tokenizers or validation sets: their losses are then of different things.
    """
    notes = []
    for field, things in SAME.items():
        known = {name: e[field] for name, e in environments.items() if e.get(field) is not None}
        first = next(iter(known), "")
        for name, digest in known.items():
            if digest != known[first]:
                what = f"{first} and {name} have different {things} (SHA-256 in environment.json)"
                raise DataError(f"not comparable: {what}; report them apart")
        if missing := [name for name in environments if name not in known]:
            who = missing[0] if len(missing) == 1 else f"{len(missing)} runs, as {missing[0]}"
            notes.append(f"not checked that {things} are the same: no record of {who}")
    return notes

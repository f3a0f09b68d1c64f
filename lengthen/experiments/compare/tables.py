"""The tables of a comparison: results, verdicts, instability and its causes, cost of measuring."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from statistics import fmean

from lengthen.analysis.instability import THRESHOLDS
from lengthen.analysis.summary import QUANTITIES, Side, Summary
from lengthen.experiments.compare.file import Comparison
from lengthen.experiments.compare.outcomes import UNCOUNTED, Group, Outcome
from lengthen.experiments.compare.verdicts import PairVerdict, Speedup, speedups, verdicts
from lengthen.run.records import EvalRecord
from lengthen.util.stats import interval
from lengthen.util.tables import Table, between, number

NOT_MEASURED = "not measured"
EXPLORATORY = " Exploratory pairs are not in that family, and have no verdict."
MARGIN = (
    " Margin: not worse where the upper bound lies below it, equivalent where both bounds lie "
    "within it; each at 95 % by itself, and neither for a variant with a diverged seed."
)
SPIKED = (
    " One seed's difference stands apart from the others' in: {pairs}. Where differences have rare "
    "spikes to one side, an interval from few seeds leaves out the true mean more often than in "
    "5 %: see docs/comparing.md."
)


def cells(members: Sequence[Group]) -> Iterator[tuple[str, list[Group]]]:
    """Yield each cell with its variants."""
    for cell, inside in groupby(members, lambda group: group.cell):
        yield cell, list(inside)


def results(members: Sequence[Group], baseline: str) -> Table:
    """Return what each variant has come to at the end of the budget."""
    rows = []
    for _, inside in cells(members):
        base = next((group for group in inside if group.variant == baseline), None)
        rows += [_result(group, base) for group in inside]
    return Table(
        "Results at the end of an equal budget",
        (
            "variant",
            "seeds finished",
            "validation loss",
            "95 % interval",
            "updates",
            "largest ratio, steps",
            "largest ratio, probe",
            "stable seeds",
            "tokens: times fewer",
            "seconds: times fewer",
        ),
        tuple(rows),
        "Loss in nats per token at full length, mean over seeds. Ratios: the largest of all seeds; "
        "the steps' is the paper's and mixes lengths, the probe's is at full length. Stable: the "
        "probe's never above 1.2, and no step not finite. Times fewer: until each seed's own "
        f"{baseline} loss at its best is reached; geometric mean and 95 % interval over the seeds "
        "that reach it. Seconds count only where each run had the machine alone, with equal "
        "threads.",
    )


def _result(group: Group, base: Group | None) -> tuple[str, ...]:
    losses = [loss for loss in group.losses().values() if loss is not None]
    mean = interval(losses) if losses else None
    summaries = group.summaries
    stable = sum(o.summary.stable for o in group.outcomes if o.loss is not None and o.summary)
    judged = sum(o.summary.judged_by != "nothing" for o in group.by_seed().values() if o.summary)
    return (
        group.name,
        _end_states(group),
        number(mean.mean if mean else None),
        between(mean.low, mean.high, least=0) if mean else "-",
        " or ".join(f"{steps:,}" for steps in sorted({s.steps for s in summaries})) or "-",
        number(largest_step_ratio(group), 2),
        number(largest_probe_ratio(group), 2),
        f"{stable} of {judged}" if judged else "-",
        "-" if base is None else times_fewer(speedup(group, base, lambda reached: reached.tokens)),
        "-" if base is None else _seconds(group, base),
    )


def _end_states(group: Group) -> str:
    parts = [f"{n} {state}" for state in ("diverged", *UNCOUNTED) if (n := group.count(state))]
    return ", ".join([f"{group.count('finished')} of {len(group.outcomes)}", *parts])


def largest_step_ratio(group: Group) -> float | None:
    """Return the largest loss ratio of the steps of all seeds; None where no step has one."""
    return _largest(summary.ratios.largest for summary in group.summaries)


def largest_probe_ratio(group: Group) -> float | None:
    """Return the same of the probes."""
    return _largest(s.probe.largest for s in group.summaries if s.probe is not None)


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def speedup(
    group: Group, base: Group, count: Callable[[EvalRecord], float | None]
) -> Speedup | None:
    """Return how many times fewer tokens (or seconds) a group took to the best losses of `base`.

    Each seed to that of the baseline's own run. None where there is no seed that both have, or
    where one was not counted, or was there before its first step.
    """
    theirs, ours = base.by_seed(), group.by_seed()
    baseline, own = [], []
    for seed in theirs.keys() & ours.keys():
        best = None if theirs[seed].loss is None else theirs[seed].summary
        if best is None or best.best_loss is None:
            continue  # one that diverged sets no goal
        took, its = (_count(one[seed], best.best_loss, count) for one in (theirs, ours))
        if not took or its == 0:
            return None
        baseline.append(took)
        own.append(its)
    return speedups(baseline, own) if baseline else None


def _count(
    outcome: Outcome, goal: float, count: Callable[[EvalRecord], float | None]
) -> float | None:
    # A run that was there and was then lost has not got there.
    reached = None if outcome.loss is None else outcome.time_to(goal)
    return None if reached is None else count(reached) or 0.0


def times_fewer(speedup: Speedup | None) -> str:
    """Return a speed-up for a cell of a table."""
    if speedup is None:
        return "-"
    if speedup.ratio is None:
        return "not reached"
    text = f"{speedup.ratio:.2f}"
    if speedup.low is not None and speedup.high is not None and speedup.low < speedup.high:
        text += f" [{speedup.low:.2f}, {speedup.high:.2f}]"
    few = speedup.n - speedup.reached
    return f"{text}; not reached in {few} of {speedup.n}" if few else text


def _seconds(group: Group, base: Group) -> str:
    both = [*group.outcomes, *base.outcomes]
    threads = {count for outcome in both for count in outcome.attempts.threads}
    alike = len(threads) == 1 and len({outcome.device for outcome in both}) == 1
    if not alike or not all(outcome.attempts.alone for outcome in both):
        return NOT_MEASURED
    return times_fewer(speedup(group, base, lambda reached: reached.seconds))


def pair_verdicts(
    members: Sequence[Group], comparison: Comparison
) -> list[tuple[str, PairVerdict]]:
    """Return each cell's verdicts; Holm's family is all pairs of the file, finished or not."""
    by_cell: list[tuple[str, PairVerdict]] = []
    for cell, inside in cells(members):
        losses = {group.variant: group.losses() for group in inside}
        every = {variant: losses.get(variant, {}) for variant in comparison.variants}
        pairs = verdicts(every, primary=comparison.primary, margin=comparison.margin)
        by_cell += [(cell, pair) for pair in pairs if {pair.a, pair.b} <= losses.keys()]
    return by_cell


def verdict_lines(pairs: Sequence[tuple[str, PairVerdict]]) -> list[str]:
    """Return a plain sentence for every pair of variants of every cell."""
    return [f"{cell}: {pair.sentence()}" if cell else pair.sentence() for cell, pair in pairs]


def verdict_table(pairs: Sequence[tuple[str, PairVerdict]]) -> Table:
    """Return every pair's difference, interval, p after Holm, and what these seeds could see."""
    rows, margin = [], next((pair.margin for _, pair in pairs if pair.margin), None)
    for cell, pair in pairs:
        gap, bounds = pair.difference, pair.bounds
        within = pair.within or "-", between(bounds.low, bounds.high) if bounds else "-"
        rows.append(
            (
                f"{pair.a} against {pair.b}" + (f", {cell}" if cell else ""),
                pair.verdict,
                *(within if margin else ()),
                number(gap.mean if gap else None),
                between(gap.low, gap.high) if gap else "-",
                "-" if pair.p_adjusted is None else f"{pair.p_adjusted:.2g}",
                str(pair.seeds),
                number(pair.smallest_effect),
            )
        )
    apart = "; ".join(row[0] for row, (_, pair) in zip(rows, pairs, strict=True) if pair.one_apart)
    of_margin = (f"margin {margin:g}", "one-sided 95 % bounds") if margin else ()
    columns = ("difference", "95 % interval", "p after Holm", "seeds", "seen at 80 %")
    note = EXPLORATORY if any(pair.verdict == "exploratory" for _, pair in pairs) else ""
    note += MARGIN if margin else ""
    note += SPIKED.format(pairs=apart) if apart else ""
    return Table(
        "Verdicts",
        ("pair", "verdict", *of_margin, *columns),
        tuple(rows),
        "Difference of the final validation losses in nats, the first less the second, paired by "
        "seed. Paired t-test; Holm over the pairs of one cell, so that the chance of any false "
        "verdict in a cell is 5 % at most. Seen at 80 %: the smallest true difference that these "
        "seeds would find four times in five, at Holm's hardest step." + note,
    )


def instability(members: Sequence[Group]) -> Table:
    """Return unstable steps and largest ratios of every cell, by the steps and by the probe."""
    return Table(
        "Instability",
        (
            "variant",
            "steps",
            *(f"steps >{threshold}" for threshold in THRESHOLDS),
            "largest, steps",
            "probes",
            *(f"probes >{threshold}" for threshold in THRESHOLDS),
            "largest, probe",
            "not finite",
        ),
        tuple(_instability(group) for group in members),
        "Loss ratios, summed over seeds. Above 1.2 is unstable in the paper, whose ratio is that "
        "of the steps.",
    )


def _instability(group: Group) -> tuple[str, ...]:
    steps = [summary.ratios for summary in group.summaries]
    probes = [summary.probe for summary in group.summaries if summary.probe is not None]
    numbers = range(len(THRESHOLDS))
    return (
        group.name,
        f"{sum(ratios.count for ratios in steps):,}",
        *(f"{sum(ratios.unstable[i] for ratios in steps):,}" for i in numbers),
        number(largest_step_ratio(group), 2),
        f"{sum(ratios.count for ratios in probes):,}",
        *(f"{sum(ratios.unstable[i] for ratios in probes):,}" for i in numbers),
        number(largest_probe_ratio(group), 2),
        str(sum(ratios.not_finite for ratios in steps)),
    )


def peaks(members: Sequence[Group]) -> Table:
    """Return the largest value in a run of each quantity, as a mean over seeds."""
    numbers = range(len(QUANTITIES))
    return Table(
        "The largest values of a run",
        ("variant", *QUANTITIES),
        tuple((group.name, *(_peak(group, number) for number in numbers)) for group in members),
        "The mean over seeds of each run's largest value, and the lowest and highest of them. The "
        "paper finds extreme values of the second moment where training is unstable.",
    )


def _peak(group: Group, quantity: int) -> str:
    of_seeds = (summary.peaks[quantity] for summary in group.summaries)
    values = [value for value in of_seeds if value is not None]
    if not values:
        return "-"
    mean = f"{fmean(values):.3g}"
    return f"{mean} [{min(values):.3g}, {max(values):.3g}]" if len(values) > 1 else mean


def correlations(members: Sequence[Group]) -> Table:
    """Return Pearson's r of the loss ratio with what should go with it, seed by seed."""
    return Table(
        "What goes with the loss ratio",
        ("variant", "quantity", "steps later", "r, mean", "r, over seeds", "largest p"),
        tuple(row for group in members for row in _correlations(group)),
        "Pearson's r of the steps' loss ratio with a quantity of the same step, or of the step "
        "before. p with the effective number of steps, since neighbours resemble each other. "
        "Going together is no cause: a spike makes large gradients, which raise the variance.",
    )


def _correlations(group: Group) -> Iterator[tuple[str, ...]]:
    for of_seeds in zip(*(summary.correlations for summary in group.summaries), strict=True):
        defined = [one.correlation for one in of_seeds if one.correlation is not None]
        if not defined:
            continue
        r = [correlation.r for correlation in defined]
        yield (
            group.name,
            of_seeds[0].quantity,
            str(of_seeds[0].lag),
            f"{sum(r) / len(r):z.2f}",
            f"{min(r):z.2f} to {max(r):z.2f}",
            f"{max(correlation.p_effective for correlation in defined):.2g}",
        )


MEASURED: dict[str, Callable[[Summary], Side]] = {
    "probe": lambda summary: summary.probing,
    "evaluation": lambda summary: summary.evaluating,
    "observation": lambda summary: summary.observing,
}


def measuring(members: Sequence[Group]) -> Table:
    """Return what probes, evaluations and observations took, which is in no other count."""
    kinds = dict(MEASURED)
    # Of an adaptive pacing: a table without one does without its columns.
    if not any(s.observing.count for group in members for s in group.summaries):
        del kinds["observation"]
    return Table(
        "What measuring took",
        ("variant", *(f"{kind} {unit}" for kind in kinds for unit in ("tokens", "seconds"))),
        tuple((group.name, *_measuring(group, kinds.values())) for group in members),
        "Summed over seeds; in no other count of tokens or seconds.",
    )


def _measuring(group: Group, kinds: Iterable[Callable[[Summary], Side]]) -> Iterator[str]:
    for kind in kinds:
        sides = [side for summary in group.summaries if (side := kind(summary)).count]
        yield _total([side.tokens for side in sides], 0)
        yield _total([side.seconds for side in sides], 1)


def _total(amounts: Sequence[float | None], digits: int) -> str:
    known = [amount for amount in amounts if amount is not None]
    return number(sum(known) if len(known) == len(amounts) else None, digits)

"""The tables of a comparison: results at an equal budget, verdicts, instability, measuring."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from lengthen.analysis.instability import THRESHOLDS
from lengthen.analysis.summary import Summary
from lengthen.experiments.compare.outcomes import Group, Outcome, losses_of
from lengthen.experiments.compare.verdicts import Speedup, Verdict, speedups, verdicts
from lengthen.run.records import EvalRecord
from lengthen.util.stats import interval
from lengthen.util.tables import Table, number

UNTIMED = "not measured"
SPIKED = (
    " One seed's difference stands apart from the others' in: {pairs}. Where differences have rare "
    "spikes to one side, an interval from few seeds leaves out the true mean more often than in "
    "5 %: see docs/comparing.md."
)
Goals = dict[int, float]  # seed -> the validation loss to reach


def cells(members: Sequence[Group]) -> Iterator[tuple[str, list[Group]]]:
    """Yield each cell with its variants."""
    for cell, found in groupby(members, lambda group: group.cell):
        yield cell, list(found)


def results(members: Sequence[Group], baseline: str) -> Table:
    """Return what each variant has come to at the end of the budget."""
    rows = []
    for _, found in cells(members):
        base = next((group for group in found if group.variant == baseline), None)
        rows += [_result(group, base) for group in found]
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
    low, high = (None, None) if mean is None else (mean.low, mean.high)
    summaries = group.summaries
    finished = [o.summary for o in group.outcomes if o.loss is not None and o.summary is not None]
    goals = {} if base is None else goals_of(base)
    return (
        group.name,
        _fates(group),
        number(mean.mean if mean else None),
        "-" if low is None or high is None else f"{low:.3f} to {high:.3f}",
        " or ".join(sorted({f"{summary.steps:,}" for summary in summaries})) or "-",
        number(largest(s.ratios.largest for s in summaries), 2),
        number(largest(s.probe.largest if s.probe else None for s in summaries), 2),
        f"{sum(s.stable for s in finished)} of {len(group.outcomes)}",
        "-" if base is None else said(speedup(group, base, goals, lambda r: r.tokens)),
        "-" if base is None else _seconds(group, base, goals),
    )


def _fates(group: Group) -> str:
    parts = [f"{group.fates('finished')} of {len(group.outcomes)}"]
    parts += [f"{n} {fate}" for fate in ("diverged", "crashed") if (n := group.fates(fate))]
    return ", ".join(parts)


def largest(values: Iterator[float | None]) -> float | None:
    """Return the largest of the values that are there."""
    return max((value for value in values if value is not None), default=None)


def goals_of(base: Group) -> Goals:
    """Return the best validation loss of each seed of the baseline; none of one that diverged."""
    finished = (outcome for outcome in base.outcomes if outcome.loss is not None)
    best = {o.run.seed: o.summary.best_loss for o in finished if o.summary is not None}
    return {seed: loss for seed, loss in best.items() if loss is not None}


def speedup(
    group: Group, base: Group, goals: Goals, count: Callable[[EvalRecord], float | None]
) -> Speedup | None:
    """Return how many times fewer tokens (or seconds) the group took to the goals than `base`.

    None where there is no seed that both have, or where one was not counted.
    """
    theirs, ours = base.by_seed(), group.by_seed()
    baseline, own = [], []
    for seed in goals.keys() & theirs.keys() & ours.keys():
        took = _count(theirs[seed], goals[seed], count)
        if not took:
            return None
        baseline.append(took)
        own.append(_count(ours[seed], goals[seed], count))
    return speedups(baseline, own) if baseline else None


def _count(
    outcome: Outcome, goal: float, count: Callable[[EvalRecord], float | None]
) -> float | None:
    # A run that was there and was then lost has not got there.
    reached = None if outcome.loss is None else outcome.time_to(goal)
    return None if reached is None else count(reached)


def said(speedup: Speedup | None) -> str:
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


def _seconds(group: Group, base: Group, goals: Goals) -> str:
    both = [*group.outcomes, *base.outcomes]
    threads = {count for outcome in both for count in outcome.attempts.threads}
    if not all(outcome.attempts.alone for outcome in both) or len(threads) != 1:
        return UNTIMED
    return said(speedup(group, base, goals, lambda reached: reached.seconds))


def judged(members: Sequence[Group], variants: Sequence[str]) -> list[tuple[str, Verdict]]:
    """Return each cell's verdicts; Holm's family is all pairs of the file, finished or not."""
    found: list[tuple[str, Verdict]] = []
    for cell, inside in cells(members):
        losses = losses_of(inside)
        pairs = verdicts({variant: losses.get(variant, {}) for variant in variants})
        found += [(cell, pair) for pair in pairs if {pair.a, pair.b} <= losses.keys()]
    return found


def verdict_lines(judgements: Sequence[tuple[str, Verdict]]) -> list[str]:
    """Return a plain sentence for every pair of variants of every cell."""
    return [
        f"{cell}: {verdict.sentence()}" if cell else verdict.sentence()
        for cell, verdict in judgements
    ]


def verdict_table(judgements: Sequence[tuple[str, Verdict]]) -> Table:
    """Return every pair's difference, interval, p after Holm, and what these seeds could see."""
    rows = []
    for cell, verdict in judgements:
        gap = verdict.difference
        rows.append(
            (
                f"{verdict.a} against {verdict.b}" + (f", {cell}" if cell else ""),
                verdict.word,
                number(gap.mean if gap else None),
                "-" if gap is None or gap.low is None else f"{gap.low:.3f} to {gap.high:.3f}",
                "-" if verdict.p_adjusted is None else f"{verdict.p_adjusted:.2g}",
                str(verdict.seeds),
                number(verdict.smallest_effect),
            )
        )
    apart = "; ".join(row[0] for row, (_, v) in zip(rows, judgements, strict=True) if v.one_apart)
    columns = ("pair", "verdict", "difference", "95 % interval", "p after Holm", "seeds")
    return Table(
        "Verdicts",
        (*columns, "seen at 80 %"),
        tuple(rows),
        "Difference of the final validation losses in nats, the first less the second, paired by "
        "seed. Paired t-test; Holm over the pairs of one cell, so that the chance of any false "
        "verdict in a cell is 5 % at most. Seen at 80 %: the smallest true difference that these "
        "seeds would find four times in five, at Holm's hardest step."
        + (SPIKED.format(pairs=apart) if apart else ""),
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
    summaries = group.summaries
    probes = [summary.probe for summary in summaries if summary.probe is not None]
    numbers = range(len(THRESHOLDS))
    return (
        group.name,
        f"{sum(s.ratios.count for s in summaries):,}",
        *(f"{sum(s.ratios.unstable[i] for s in summaries):,}" for i in numbers),
        number(largest(s.ratios.largest for s in summaries), 2),
        f"{sum(p.count for p in probes):,}",
        *(f"{sum(p.unstable[i] for p in probes):,}" for i in numbers),
        number(largest(p.largest for p in probes), 2),
        str(sum(s.ratios.not_finite for s in summaries)),
    )


def measuring(members: Sequence[Group]) -> Table:
    """Return what probes, evaluations and observations took, which is in no other count."""
    kinds = ["probe", "evaluation"]
    # Of an adaptive pacing: a table without one does without its columns.
    kinds += ["observation"] * any(s.observing.count for group in members for s in group.summaries)
    return Table(
        "What measuring took",
        ("variant", *(f"{kind} {unit}" for kind in kinds for unit in ("tokens", "seconds"))),
        tuple((group.name, *_measuring(group.summaries, kinds)) for group in members),
        "Summed over seeds; in no other count of tokens or seconds.",
    )


def _measuring(summaries: Sequence[Summary], kinds: Sequence[str]) -> Iterator[str]:
    sides = {
        "probe": [summary.probing for summary in summaries],
        "evaluation": [summary.evaluating for summary in summaries],
        "observation": [summary.observing for summary in summaries],
    }
    for kind in kinds:
        yield f"{sum(side.tokens or 0 for side in sides[kind]):,.0f}"
        yield f"{sum(side.seconds or 0 for side in sides[kind]):,.1f}"

"""Verdicts on variants that do not differ, and what how many seeds can see.

    python -m benchmarks.verdicts                  10,000 null tables for each line
    python -m benchmarks.verdicts --tables 1000

A null table has 4 variants that differ by chance alone: losses around 5 nats, a part that belongs
to the seed and is shared by all variants (sd 0.03) and one of each run's own (sd 0.03). An alarm is
a table with any pair called better or worse, at alpha = 5 %. In DIVERGING tables each run also
diverges with the chance given. Everything is drawn from a fixed seed and counted, so the figures
are the same on any machine.

Coverage is how often the 95 % interval holds the true mean where one difference in so many is
also a spike of ten standard deviations to one side, as of runs that rarely break.

Power is that of the two-sided paired t-test at alpha = 5 %, alone and at alpha / 6, which is the
hardest step of Holm among the 6 pairs of 4 variants. Effects are in standard deviations of the
paired difference.

DECLARED are verdicts on primary pairs, of which both share their second variant: alarms of 'better'
and 'worse' over one and two of them; of 'not worse' and 'equivalent' at a true difference equal to
the margin, the worst over the sd of paired differences; and the chance of 'not worse by more than
0.02' at no difference, and of 'better' at so many sd. Whole tables of losses at once.
"""

import argparse

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from benchmarks.measure import report
from lengthen.experiments.compare.verdicts import verdicts
from lengthen.util.stats import interval, power, smallest_effect

VARIANTS, ALPHA, PAIRS = 4, 0.05, 6
SEEDS, EFFECTS = (3, 5, 8, 12), (1, 2, 3)
DIVERGING = ((2, 3, 50), (4, 3, 50), (6, 3, 50), (4, 5, 50), (6, 5, 50), (4, 8, 50), (4, 8, 20))
SPIKE, SPIKED_PERCENT = 10, (5, 10, 20)
MARGIN, DECLARED_SEEDS, SPREADS = 0.02, (3, 5, 8, 10, 16), (0.01, 0.02, 0.03, 0.05)
Numbers = npt.NDArray[np.float64]


def is_alarm(rng: np.random.Generator, variants: int, seeds: int, diverging: float = 0) -> bool:
    shared = 0.03 * rng.standard_normal(seeds)
    losses = 5 + shared + 0.03 * rng.standard_normal((variants, seeds))
    if diverging:
        losses[rng.random(losses.shape) < diverging] = np.nan
    table = {str(row): dict(enumerate(losses[row].tolist())) for row in range(variants)}
    return any(verdict.verdict in ("better", "worse") for verdict in verdicts(table, ALPHA))


def false_alarms(tables: int) -> None:
    for seeds in SEEDS:
        rng = np.random.default_rng(seeds)
        alarms = sum(is_alarm(rng, VARIANTS, seeds) for _ in range(tables))
        report(f"FALSE_ALARM_PERCENT_{seeds}_SEEDS", 100 * alarms / tables)
    for variants, seeds, percent in DIVERGING:
        rng = np.random.default_rng(seeds)
        alarms = sum(is_alarm(rng, variants, seeds, percent / 100) for _ in range(tables))
        name = f"{variants}_VARIANTS_{seeds}_SEEDS_DIVERGING_{percent}_PERCENT"
        report(f"FALSE_ALARM_PERCENT_{name}", 100 * alarms / tables)


def coverage(tables: int) -> None:
    for seeds in SEEDS:
        for percent in SPIKED_PERCENT:
            rng, share = np.random.default_rng(seeds), percent / 100
            spikes = SPIKE * (rng.random((tables, seeds)) < share)
            means = [interval(row) for row in (rng.standard_normal(spikes.shape) + spikes).tolist()]
            inside = sum(
                mean.low is not None
                and mean.high is not None
                and mean.low <= SPIKE * share <= mean.high
                for mean in means
            )
            name = f"COVERAGE_PERCENT_{seeds}_SEEDS_SPIKES_IN_{percent}_PERCENT"
            report(name, 100 * inside / tables)


def powers(name: str, alpha: float) -> None:
    print(f"\npower in percent, {name} (alpha {alpha:.4f})")
    print("seeds  " + "".join(f"{effect:>6} sd" for effect in EFFECTS) + "   80 % at")
    for seeds in SEEDS:
        seen = "".join(f"{100 * power(seeds, effect, alpha):9.1f}" for effect in EFFECTS)
        print(f"{seeds:>5}  {seen}  {smallest_effect(seeds, alpha):5.2f} sd")


def power_figures(name: str, alpha: float) -> None:
    for seeds in SEEDS:
        for effect in EFFECTS:
            percent = 100 * power(seeds, effect, alpha)
            report(f"POWER_PERCENT_{name}_{seeds}_SEEDS_{effect}_SD", percent)


def p_values(gaps: Numbers) -> Numbers:
    """Return the p of the two-sided paired t-test of each row of differences."""
    seeds = gaps.shape[-1]
    t = gaps.mean(-1) / gaps.std(-1, ddof=1) * np.sqrt(seeds)
    return np.asarray(2 * stdtr(seeds - 1, -abs(t)))


def bounds(gaps: Numbers) -> tuple[Numbers, Numbers]:
    """Return the one-sided bounds of each row's mean difference."""
    seeds = gaps.shape[-1]
    reach = stdtrit(seeds - 1, 1 - ALPHA) * gaps.std(-1, ddof=1) / np.sqrt(seeds)
    return gaps.mean(-1) - reach, gaps.mean(-1) + reach


def percent(found: npt.NDArray[np.bool_]) -> float:
    return 100 * float(found.mean())


def declared_alarms(tables: int, seeds: int) -> dict[str, float]:
    """Return in per cent how often each verdict on primary pairs is false where it may not be."""
    rng, alarms = np.random.default_rng(seeds), {}
    for pairs in (1, 2):
        losses = 0.03 * rng.standard_normal((tables, pairs + 1, seeds))
        p = p_values(losses[:, 1:] - losses[:, :1])
        alarms[f"{pairs}_PRIMARY"] = percent(p.min(-1) * pairs <= ALPHA)
    drawn = [MARGIN + sd * rng.standard_normal((tables, seeds)) for sd in SPREADS]
    both = [bounds(gaps) for gaps in drawn]
    alarms["NOT_WORSE"] = max(percent(high < MARGIN) for _, high in both)
    alarms["EQUIVALENT"] = max(percent((high < MARGIN) & (low > -MARGIN)) for low, high in both)
    return alarms


def declared_power(tables: int, seeds: int) -> tuple[list[float], list[float]]:
    """Return the chance in per cent of 'not worse' for each sd, and of 'better' at each effect."""
    noise = np.random.default_rng(seeds).standard_normal((tables, seeds))
    not_worse = [percent(bounds(sd * noise)[1] < MARGIN) for sd in SPREADS]
    better = [percent((p_values(noise - e) <= ALPHA) & ((noise - e).mean(-1) < 0)) for e in EFFECTS]
    return not_worse, better


def declared(tables: int) -> None:
    for seeds in DECLARED_SEEDS:
        for name, alarms in declared_alarms(tables, seeds).items():
            report(f"FALSE_ALARM_PERCENT_{name}_{seeds}_SEEDS", alarms)
    print("\nseeds  'not worse by more than 0.02' at no difference, by sd; 'better' by effect")
    print("       " + "".join(f"{sd:9}" for sd in SPREADS) + "".join(f"{e:6} sd" for e in EFFECTS))
    for seeds in DECLARED_SEEDS:
        not_worse, better = declared_power(tables, seeds)
        print(f"{seeds:>5}  " + "".join(f"{value:9.1f}" for value in (*not_worse, *better)))


def main() -> None:
    parser = argparse.ArgumentParser(description="False alarms and power of the verdicts.")
    parser.add_argument("--tables", type=int, default=10_000, help="null tables per seed count")
    tables = parser.parse_args().tables
    declared(tables)
    false_alarms(tables)
    coverage(tables)
    powers("one pair alone", ALPHA)
    powers("each of 6 pairs", ALPHA / PAIRS)
    print()
    power_figures("ALONE", ALPHA)
    power_figures("OF_6", ALPHA / PAIRS)


if __name__ == "__main__":
    main()

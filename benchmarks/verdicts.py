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
"""

import argparse

import numpy as np

from benchmarks.measure import report
from lengthen.experiments.compare.verdicts import verdicts
from lengthen.util.stats import interval, power, smallest_effect

VARIANTS, ALPHA, PAIRS = 4, 0.05, 6
SEEDS, EFFECTS = (3, 5, 8, 12), (1, 2, 3)
DIVERGING = ((2, 3, 50), (4, 3, 50), (6, 3, 50), (4, 5, 50), (6, 5, 50), (4, 8, 50), (4, 8, 20))
SPIKE, SPIKED_PERCENT = 10, (5, 10, 20)


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


def main() -> None:
    parser = argparse.ArgumentParser(description="False alarms and power of the verdicts.")
    parser.add_argument("--tables", type=int, default=10_000, help="null tables per seed count")
    tables = parser.parse_args().tables
    false_alarms(tables)
    coverage(tables)
    powers("one pair alone", ALPHA)
    powers("each of 6 pairs", ALPHA / PAIRS)
    print()
    power_figures("ALONE", ALPHA)
    power_figures("OF_6", ALPHA / PAIRS)


if __name__ == "__main__":
    main()

"""The sentences of the page on results: each measured figure in them is one of a published run."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lengthen.config.load import load
from lengthen.experiments.compare.file import read_comparison
from lengthen.experiments.compare.outcomes import Group, groups, read_outcomes
from lengthen.planning.forecast import Forecast, Saving
from lengthen.planning.plan import plan
from lengthen.run.packed import opened
from lengthen.training.calibrate import given_speed
from lengthen.util.stats import paired
from lengthen.util.tables import Table
from scripts.pilot_table import pilot_table
from scripts.study_figures import TABLES
from scripts.study_runs import read_studies

ROOT = Path(__file__).parents[1]
PILOT = ROOT / "studies/pilot.tar.xz"
PACKED = {"repeat": "large-batch", "eight-seeds": "large-batch"}  # files that share another's runs
HIGH, BEST = ", learning_rate=0.01", ", learning_rate=0.003"
FIGURE = re.compile(r"(?<![\d:])\d+\.\d+")
NOT_MEASURED = {
    *("0.9", "0.95", "0.999", "1.0", "0.1"),  # settings
    *("2.2", "3.7"),  # of the paper
    "2.5",  # million tokens, as planned
    "0.012",  # a bound that a sentence draws
    "0.02",  # the margin, and the sd and the context gain that were asked for
}


@cache
def facts(study: str) -> Any:
    return json.loads((ROOT / f"studies/{study}.json").read_text(encoding="utf-8"))


def cell(study: str, title: str, row: str, column: str) -> str:
    """Return what a published table says in a row, or in two columns."""
    table = next(t for t in facts(study)["tables"] if t["title"].startswith(title))
    found = next(cells for cells in table["rows"] if row in (cells[0], f"{cells[0]} {cells[1]}"))
    return str(found[table["columns"].index(column)])


def ratio(study: str, variant: str) -> str:
    return cell(study, "Results", variant, "largest ratio, steps")


def fewer(study: str, variant: str, of: str) -> str:
    return cell(study, "Results", variant, f"{of}: times fewer")


def verdict(study: str, pair: str, column: str) -> str:
    return cell(study, "Verdicts", pair, column)


def bounds(study: str, pair: str, sign: int = 1, digits: int = 3) -> tuple[str, str]:
    """Return the ends of a difference's interval, turned round for `sign` -1."""
    ends = [sign * float(end) for end in verdict(study, pair, "95 % interval").split(" to ")]
    low, high = (f"{end:.{digits}f}" for end in sorted(ends))
    return low, high


def size(study: str, pair: str, digits: int = 3) -> str:
    return f"{abs(float(verdict(study, pair, 'difference'))):.{digits}f}"


def largest(study: str, variant: str, quantity: str, digits: int) -> str:
    """Return `mean [lowest, highest]` of a quantity's largest values, with so many decimals."""
    told = cell(study, "The largest", variant, quantity)
    return re.sub(r"[\d.]+", lambda figure: f"{float(figure[0]):.{digits}f}", told)


def relation(study: str, row: str, column: str) -> str:
    return cell(study, "What goes with", row, column)


@cache
def group(study: str, variant: str) -> Group:
    """Return the runs of a packed study's variant."""
    comparison = read_comparison(ROOT / f"studies/{study}.toml")
    with opened(ROOT / f"studies/{PACKED.get(study, study)}.tar.xz") as folder:
        outcomes, _ = read_outcomes(comparison, folder)
    return next(one for one in groups(comparison, outcomes) if one.name == variant)


def losses(study: str, variant: str) -> dict[int, float]:
    """Return the final losses of a packed study's variant by seed."""
    found = group(study, variant).losses()
    return {seed: one for seed, one in found.items() if one is not None}


def apart(study: str, first: str, second: str) -> list[float]:
    """Return the differences of two variants by seed."""
    ours, theirs = losses(study, first), losses(study, second)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def from_in_place(other: str, digits: int = 3) -> tuple[str, str]:
    """Return how far rows cut in place end from a variant of their seeds: size and interval."""
    ours, theirs = losses("long-in-place", "doubling-in-place"), losses("long", other)
    mean = paired([loss - theirs[seed] for seed, loss in ours.items()])
    assert mean.low is not None
    assert mean.high is not None
    low, high = sorted((abs(mean.low), abs(mean.high)))
    assert mean.low * mean.high > 0
    return f"{abs(mean.mean):.{digits}f}", f"[{low:.{digits}f}, {high:.{digits}f}]"


def in_short() -> list[str]:
    """Return the phrases of the summary and of the claims' table."""
    eight, five, slw = "eight-seeds", "large-batch", "baseline against slw" + HIGH
    held, rows = "slw against tokens-held" + HIGH, "slw against rows" + HIGH
    low, high = bounds(eight, slw)
    held_low, held_high = bounds(eight, held, -1)
    rows_low, rows_high = bounds(eight, rows, -1)
    at_best = sorted(losses(five, "slw" + BEST).values())
    norm, maximum = "variance_norm", "variance_max"
    of = "baseline, learning_rate=0.01 "
    small, large = (largest(eight, name + HIGH, "variance_max", 4) for name in ("slw", "baseline"))
    norms = [relation(eight, of + which, "r, over seeds") for which in (norm, maximum)]
    return [
        f"SLW ends **{size(eight, slw)} nats** below the baseline at equal tokens (8 seeds, 95 % "
        f"interval {low} to {high}",
        f"It ends {size(eight, held)} ({held_low} to {held_high}) below a length warmup",
        f"(p = {verdict(eight, slw, 'p after Holm')} and {verdict(eight, held, 'p after Holm')})",
        f"one of {verdict(five, 'baseline against slw' + BEST, 'seen at 80 %')} four times in five",
        f"end {size(eight, 'baseline against rows' + HIGH)} below the baseline, the length on top "
        f"of that a further {size(eight, rows)}, the length alone (`tokens-held`) "
        f"{size(eight, 'baseline against tokens-held' + HIGH)}",
        f"is {ratio('rates', 'baseline, learning_rate=0.001')} at 1e-3 and "
        f"{ratio('rates', 'baseline, learning_rate=0.1')} at 0.1",
        f"length ({ratio('lengths', 'baseline, length=64')} at 64, "
        f"{ratio('lengths', 'baseline, length=512')} at 512) and model "
        f"({ratio('sizes', 'baseline, width=64')}, then {ratio('sizes', 'baseline, width=128')})",
        f"(r from {norms[0]}) and less with its largest element ({norms[1]}), with p up to "
        f"{relation(eight, of + norm, 'largest p')}.",
        f"from {largest(five, 'baseline' + BEST, 'variance_max', 4).split()[0]} to "
        f"{largest(five, 'baseline' + HIGH, 'variance_max', 4).split()[0]} (",
        f"mean [lowest, highest]: baseline {large}, SLW {small};",
        f"({largest(eight, 'slw' + HIGH, 'variance_norm', 1).split()[0]} against "
        f"{largest(eight, 'baseline' + HIGH, 'variance_norm', 1).split()[0]})",
        f"{fewer(eight, 'slw' + HIGH, 'tokens').split(';')[0]} in the 7 of 8 seeds".replace(
            " [", " times fewer ["
        ),
        f"{fewer('timed', 'slw', 'seconds')} times fewer seconds in one pair timed alone",
        f"`rows` ends {size(eight, rows)} above SLW [{rows_low}, {rows_high}]",
        f"one seed of SLW ended at {at_best[-1]:.2f}, and the four others between "
        f"{at_best[0]:.2f} and {at_best[-2]:.2f}.",
    ]


def at_4096() -> list[str]:
    """Return the phrases on length 4,096."""
    study, full, less = "long", "doubling against constant", "doubling against less"
    low, high = bounds(study, full, -1)
    less_low, less_high = bounds(study, less, -1)
    seeds = verdict(study, full, "seeds")
    p = verdict(study, full, "p after Holm")
    times = fewer(study, "doubling", "tokens").replace(" [", " times fewer tokens [")
    gains = [float(row[2].split()[0]) for row in table_of("gain").rows]
    pilot, pair, in_place = "pilot-pairs", "constant against doubling", "doubling-in-place"
    pilot_low, pilot_high = bounds(pilot, pair)
    placed = bounds(pilot, f"constant against {in_place}")
    below, above = from_in_place("constant"), from_in_place("doubling")
    sd = paired(apart(pilot, "doubling", "constant")).sd or 0.0
    pilot_gains = [float(row[-1].split()[0]) for row in pilot_table(PILOT).rows if row[-1]]
    return [
        f"doubling lengths end **{size(study, full)} nats** below the full length throughout at "
        f"equal tokens ({seeds} seeds, 95 % interval {low} to {high}, p = {p} after Holm), in "
        f"{saved()} % fewer seconds",
        f"end {size(study, less)} ({less_low} to {less_high}) below a full length that trains",
        f"{times}, and the final loss is below the baseline's in "
        f"{100 * float(row_of('seconds', 'doubling')[3]):.0f} % of its seconds",
        f"until their rates part, in step {min(parted())} to {max(parted())}.",
        f"is {max(gains):.3f} nats at most in",
        f"It was {max(pilot_gains):.3f} at most in the pilot",
        f"doubling ends {below[0]} nats below {below[1]}. The rest is due to the texts",
        f"ends {below[0]} below {below[1]}. Against `doubling` it ends {above[0]} above {above[1]}",
        f"doubling ended {size(pilot, pair)} below the full length [{pilot_low}, {pilot_high}], "
        f"and with rows cut in place {size(pilot, f'constant against {in_place}')} below "
        f"[{placed[0]}, {placed[1]}]",
        f"had an sd of {sd:.3f}, so eight seeds",
    ]


def parted() -> list[int]:
    """Return each seed's first step in which the full length on fewer tokens has another loss."""
    constant, less = (group("long", name).by_seed() for name in ("constant", "less"))
    pairs = (
        zip(constant[seed].shown.metrics.steps, one.shown.metrics.steps, strict=False)
        for seed, one in less.items()
    )
    return [next(a.step for a, b in steps if a.loss != b.loss) for steps in pairs]


@cache
def table_of(kind: str) -> Table:
    """Return a table of the study at length 4,096."""
    names = ("long", "long-in-place")
    return TABLES[kind](read_studies([ROOT / f"studies/{name}.toml" for name in names]))


def row_of(kind: str, variant: str, second: str = "") -> tuple[str, ...]:
    """Return the row of a variant in such a table, of several that with this second cell."""
    return next(r for r in table_of(kind).rows if r[0] == variant and r[1].startswith(second))


def saved() -> str:
    """Return the share of the seconds that doubling saves at least, in percent."""
    told = row_of("saving", "doubling", "mean")[5].removeprefix("at least ")
    return told.partition(" %")[0]


def of_the_seconds() -> list[str]:
    """Return the phrases on the pair that was timed."""
    moved = [
        abs(losses("timed", name)[0] - losses("large-batch", name + HIGH)[0])
        for name in ("baseline", "slw")
    ]
    took = [group("timed", name).summaries[0].seconds for name in ("baseline", "slw")]
    return [
        f"took the baseline {took[0]:.0f} seconds and SLW {took[1]:.0f}, evaluations not counted",
        f"the two runs end {moved[0]:.3f} (baseline) and {moved[1]:.3f} (SLW) apart",
    ]


def of_the_clock() -> list[str]:
    """Return the phrases on length, token batch and the optimizer's clock."""
    study, bare, scaled = "clock", "slw against rows", "slw-clock against rows-clock"
    by_slw, by_rows = "slw against slw-clock", "rows against rows-clock"
    low, high = bounds(study, bare)
    below_low, below_high = bounds(study, bare, -1)
    seen = [verdict(study, pair, "seen at 80 %") for pair in (bare, scaled)]
    slw, rows = ("[{}, {}]".format(*bounds(study, pair)) for pair in (by_slw, by_rows))
    lower, short = size(study, by_slw), largest("short", "short", "variance_max", 4)
    assert lower == size(study, by_rows)
    return [
        f"SLW ends {size(study, bare)} *above* `rows` [{low}, {high}]",
        f"SLW ends {lower} nats lower {slw}, and `rows` {lower} {rows}",
        f"in eight other seeds {size(study, bare)} below [{below_low}, {below_high}]",
        f"SLW ends {size(study, bare)} above rows without the clock and "
        f"{size(study, scaled)} above with it",
        f"a true difference of {seen[0]} or {seen[1]} would have been found four times in five",
        f"The clock lowers the loss of both by {lower},",
        f"But length 32 throughout, with as many tokens a step, has {short} in eight other seeds.",
        f"the largest ratio of a step's loss is {ratio('short', 'short')} (",
        f"the baseline's eight seeds have {ratio('eight-seeds', 'baseline' + HIGH)}.",
        f"falls from {ratio(study, 'rows')} to {ratio(study, 'rows-clock')} (`rows`) and from "
        f"{ratio(study, 'slw')} to {ratio(study, 'slw-clock')} (`slw`)",
    ]


def planned_saving() -> Saving:
    """Return what the README's `plan` of GPT-2 prints."""
    pacing = {"kind": "doubling", "start": 256, "duration": "80%"}
    asked = {"model.length": 8192, "batch.rows": 32, "budget.tokens": "2B", "pacing": pacing}
    config, _ = load("gpt2-117m", asked)
    return Forecast("", config, plan(config, 8192), given_speed(config, "1T")).saving


def headline() -> list[str]:
    """Return the phrases of the README."""
    saving, pair = planned_saving(), "doubling against constant"
    low, high = bounds("long", pair, -1, digits=2)
    return [
        f"end {size('long', pair, 2)} nats below the full length throughout (95 % interval {low} "
        f"to {high}), in {float(saved()):.0f} % fewer seconds",
        f"so that both read the same tokens, they end {from_in_place('constant', 2)[0]} below.",
        f"it ended [{size('clock', 'slw against slw-clock', 2)} nats lower] under either warmup",
        f"it saves {100 * saving.causal:.0f} % of the FLOP of GPT-2 117M at length 8,192",
        f"The {100 * saving.causal:.0f} % above ({100 * saving.full:.0f} % if attention is counted "
        "in full)",
    ]


def prose(page: str) -> str:
    """Return a page's sentences on one line, without code, addresses and tables of runs."""
    text = re.sub(r"<!-- \w+: .*?<!-- end -->|```.*?```", "", page, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|https?:\S+", "]", text)
    return re.sub(r"\s+", " ", text)


RESULTS = prose((ROOT / "docs/results.md").read_text(encoding="utf-8"))
PHRASES = [*in_short(), *at_4096(), *of_the_seconds(), *of_the_clock()]


@pytest.mark.parametrize("phrase", PHRASES)
def test_the_page_says_what_the_published_runs_give(phrase: str) -> None:
    assert phrase in RESULTS


@pytest.mark.parametrize("phrase", headline())
def test_the_readme_says_what_the_published_runs_give(phrase: str) -> None:
    assert phrase in prose((ROOT / "README.md").read_text(encoding="utf-8"))


def test_no_figure_of_the_page_is_without_its_runs() -> None:
    rest = RESULTS
    for phrase in PHRASES:
        rest = rest.replace(phrase, "")
    assert set(FIGURE.findall(rest)) <= NOT_MEASURED

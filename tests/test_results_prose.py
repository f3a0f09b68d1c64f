"""The sentences of the page on results: each measured figure in them is one of a published run."""

import re

import pytest

from lengthen.util.stats import paired
from scripts.pilot_table import pilot_table
from scripts.study_map import best_of, sensitivity
from tests.published import (
    ROOT,
    apart,
    bounds,
    cell,
    fewer,
    from_in_place,
    group,
    largest,
    line_of,
    losses,
    parted,
    planned_saving,
    ratio,
    relation,
    row_of,
    saved,
    size,
    table_of,
    verdict,
)

PILOT = ROOT / "studies/pilot.tar.xz"
HIGH, BEST = ", learning_rate=0.01", ", learning_rate=0.003"
FIGURE = re.compile(r"(?<![\d:])\d+\.\d+")
NOT_MEASURED = {
    *("0.9", "0.95", "0.99", "0.999", "1.0", "0.1"),  # settings
    *("2.2", "3.7"),  # of the paper
    "2.5",  # million tokens, as planned
    *("0.012", "0.3", "1.2"),  # bounds that sentences draw
    "1.23",  # a lead that was scouted, of no packed run
    "0.02",  # the margin, and the sd and the context gain that were asked for
}


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
    room = [float(bounds(study, pair)[0]) for pair in (bare, scaled)]
    assert size(study, bare) == size(study, scaled)
    slw, rows = ("[{}, {}]".format(*bounds(study, pair)) for pair in (by_slw, by_rows))
    name = "baseline" + HIGH
    assert cell("eight-seeds", "Instability", name, "steps >1.2") == "1"
    lower, short = size(study, by_slw), largest("short", "short", "variance_max", 4)
    assert lower == size(study, by_rows)
    return [
        f"SLW ends {size(study, bare)} *above* `rows` [{low}, {high}]",
        f"SLW ends {lower} nats lower {slw}, and `rows` {lower} {rows}",
        f"in eight other seeds {size(study, bare)} below [{low}, {high}]",
        f"SLW ends {size(study, bare)} above rows in both.",
        f"a gain from the length of {-room[0]:.3f} without the clock and {-room[1]:.3f} with it",
        f"The clock lowers the loss of both by {lower},",
        f"The optimizer's clock raises it under `rows`, from "
        f"{largest(study, 'rows', 'variance_max', 4).split()[0]} to "
        f"{largest(study, 'rows-clock', 'variance_max', 4).split()[0]}, while",
        f"But length 32 throughout, with as many tokens a step, has {short} in eight other seeds.",
        f"the largest ratio of a step's loss is {ratio('short', 'short')} (",
        f"and no probe above {cell('eight-seeds', 'Instability', name, 'largest, probe')}.",
        f"falls from {ratio(study, 'rows')} to {ratio(study, 'rows-clock')} (`rows`) and from "
        f"{ratio(study, 'slw')} to {ratio(study, 'slw-clock')} (`slw`)",
    ]


def of_the_map() -> list[str]:
    """Return the phrases on where runs break."""
    of = {
        (variant, length): {point.rate: point for point in line_of(variant, length)}
        for variant in ("constant", "growing")
        for length in (256, 2048, 4096)
    }
    far = [
        (point.loss - best_of(list(points.values())).loss, point.logit or 0.0)
        for (_, length), points in of.items()
        for point in points.values()
        if point.rate >= 0.03
    ]
    below = {
        (length, rate): point.loss - of["growing", length][rate].loss
        for (variant, length), points in of.items()
        for rate, point in points.items()
        if variant == "constant"
    }
    gains = [gap for (length, rate), gap in below.items() if length < 4096 and rate <= 0.01]
    beyond = [gap for (_, rate), gap in below.items() if rate > 0.01]
    over = {key: f"{sensitivity(list(points.values())):.3f}" for key, points in of.items()}
    pairs = [
        (point.logit or 0.0) > (of["constant", length][rate].logit or 0.0)
        for (variant, length), points in of.items()
        for rate, point in points.items()
        if variant == "growing"
    ]
    broke, rows = of["constant", 256][0.003], line_of("short", 256)
    near = [
        f"{points[-1].loss - points[0].loss:.3f}"
        for points in (line_of("constant", 4096), line_of("growing", 4096), rows)
    ]
    slower = {
        (length, point.rate): of["constant", length][point.rate].loss - point.loss
        for length in (256, 2048)
        for point in line_of("constant", length, 100)
    }
    low = [at for at in slower if at[1] <= 0.01]
    rise, grown = ([gaps[at] for at in low] for gaps in (slower, below))
    fast = [gap for at, gap in slower.items() if at not in low]
    others = losses("cliff", "constant, length=256").values()
    long = cell("map-long", "Results", "constant, learning_rate=0.01", "largest ratio, steps")
    starts = cell("starts", "Instability", "start-8", "largest, probe")
    return [
        f"Two runs are unstable by the probe ({broke.ratio:.2f} and {starts}).",
        f"by a single probe of {broke.ratio:.3f} in step 20",
        f"they end at {min(others):.3f} to {max(others):.3f}, the one that broke at "
        f"{broke.loss:.3f}, so",
        f"which ends {near[0]} above the better of its two rates; `growing` ends {near[1]} above "
        f"its own, rows of 256 throughout {near[2]}.",
        f"`constant` ends {min(rise):.3f} to {max(rise):.3f} nats lower at 3e-3 and 1e-2, where "
        f"growth ends {min(grown):.3f} to {max(grown):.3f} lower, and {min(fast):.3f} to "
        f"{max(fast):.3f} lower above.",
        f"runs of both variants end {min(far)[0]:.3f} to {max(far)[0]:.3f} nats above their best, "
        f"with attention logits from {min(logit for _, logit in far):,.0f} on",
        "but no probe above "
        f"{max(point.ratio for point in of['constant', 2048].values()):.3f} at length 2,048.",
        f"256 ({over['growing', 256]} against {over['constant', 256]}) and 2,048 "
        f"({over['growing', 2048]} against {over['constant', 2048]}), less at 4,096 "
        f"({over['growing', 4096]} against {over['constant', 4096]}, of two rates).",
        f"It ends {min(gains):.3f} to {max(gains):.3f} nats lower at rates up to 1e-2, at 4,096 "
        f"{below[4096, 0.004]:.3f} and {below[4096, 0.01]:.3f}, and from {max(beyond):.3f} lower "
        f"to {-min(beyond):.3f} higher above 1e-2.",
        f"it is higher in {sum(pairs)} of {len(pairs)} pairs.",
        f"does not come back: {long}, the probe's {of['constant', 4096][0.01].ratio:.3f}.",
    ]


def headline() -> list[str]:
    """Return the phrases of the README."""
    saving, pair = planned_saving(), "doubling against constant"
    low, high = bounds("long", pair, -1, digits=2)
    return [
        f"end {size('long', pair, 2)} nats below the full length throughout (95 % interval {low} "
        f"to {high}), in {float(saved()):.0f} % fewer seconds",
        f"so that both read the same tokens, they end {from_in_place('constant', 2)[0]} below.",
        f"either warmup ended [{size('clock', 'slw against slw-clock', 2)} nats lower] at 1e-2.",
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
PHRASES = [*in_short(), *at_4096(), *of_the_seconds(), *of_the_clock(), *of_the_map()]


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

"""Print the figures of a declared study from its packed runs, and draw its picture.

    python -m scripts.study_figures studies/long.toml
    python -m scripts.study_figures studies/long.toml studies/long-curve.toml studies/seconds.json
    python -m scripts.study_figures studies/long.toml --picture docs/results-long

The first study has the baseline. Others add variants of the same model on the same validation part:
those that differ from the baseline in their tokens alone are points of its curve. A run's seconds
are the sum over its steps by a table of seconds a token by length: the study's own, or one that is
named here. `lengthen compare STUDY.toml --out STUDY.tar.xz --look` prints losses and verdicts, and
is carried out for each study: its page and its tables, STUDY.html and STUDY.json, are written too.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from lengthen.evaluation.results import Measure
from lengthen.experiments.compare.compare import compare
from lengthen.reporting import curves as plots
from lengthen.reporting.figures import draw
from lengthen.util.errors import LengthenError
from lengthen.util.stats import interval, student_quantile
from lengthen.util.tables import Table, number, show
from scripts.study import packed_beside
from scripts.study_runs import Run, Study, Variant, read_studies
from scripts.study_savings import Saving

TICK = 0.008  # of the width of the picture: half of the mark at a mean


def losses_table(study: Study) -> Table:
    """Return the final loss of every run, and how far it lies above the baseline's."""
    seeds = sorted({run.seed for variant in study.variants for run in variant.runs})
    base, rows = study.base.losses(), []
    for variant in study.variants:
        losses = variant.losses()
        gaps = [losses[seed] - base[seed] for seed in seeds if seed in losses and seed in base]
        cells = (number(losses.get(seed)) for seed in seeds)
        above = "" if variant is study.base else _interval(gaps)
        rows.append((variant.name, *cells, number(fmean(losses.values())), above))
    columns = ("variant", *(f"seed {seed}" for seed in seeds), "mean", f"less {study.baseline}'s")
    note = "Validation loss at the end, nats per token; differences are paired by seed, with 95 %."
    return Table("Final losses", columns, tuple(rows), note)


def seconds_table(study: Study) -> Table:
    """Return what each variant's training takes, by the table of seconds and in operations."""
    base = study.base.runs[0]
    rows = []
    for variant in study.variants:
        run = variant.runs[0]
        shares = (
            variant.seconds / study.base.seconds,
            run.flops_causal / base.flops_causal,
            run.flops / base.flops,
        )
        rows.append(
            (
                variant.name,
                f"{run.tokens:,}",
                f"{variant.seconds:,.0f}",
                *(f"{share:.3f}" for share in shares),
                f"{run.flops_causal:.3g}",
                f"{run.flops:.3g}",
            )
        )
    of = f"of {study.baseline}'s"
    columns = ("variant", "tokens", "seconds", of, "FLOP causal, " + of, "FLOP in full, " + of)
    note = (
        "Seconds: the sum over the steps of their tokens times the seconds a token at their "
        "length, measured alone. FLOP: attention over what a token sees (causal), and in full."
    )
    return Table("Seconds and FLOP", (*columns, "FLOP causal", "FLOP in full"), tuple(rows), note)


def saving_table(study: Study) -> Table:
    """Return what each run saved against the baseline's curve, and the mean with its interval."""
    rows = []
    for variant in study.rivals:
        found = study.savings(variant)
        for seed, (run, saved) in sorted(found.items()):
            which = "own" if study.curves[seed].own else "moved"
            cells = (f"{run.loss:.3f}", f"{run.seconds:,.0f}", f"{saved.theirs:,.0f}")
            rows.append((variant.name, str(seed), *cells, str(saved), which))
        own = [one for seed, (_, one) in found.items() if study.curves[seed].own]
        every = [one for _, one in found.values()]
        for members, which in ((every, "all"), (own, "own")):
            if members and (which == "all" or len(own) < len(every)):
                label = f"mean of {len(members)}"
                rows.append((variant.name, label, "", "", "", mean_saving(members), which))
    budgets = ", ".join(
        f"{seconds:,.0f}" for seconds, _ in next(iter(study.curves.values())).points
    )
    columns = ("variant", "seed", "loss", "seconds", f"{study.baseline}'s", "saved", "curve")
    return Table(
        f"Seconds saved at the same final loss, against {study.baseline}",
        columns,
        tuple(rows),
        f"1 - seconds / {study.baseline}'s seconds to the same final loss. {study.baseline}'s "
        f"curve is the final loss of runs of {budgets} seconds, each with its own decay; between "
        "them the loss is linear in the logarithm of the seconds. A seed that lacks some of these "
        "has the mean curve of those that have all, moved to its own loss at all tokens. Beyond "
        "the curve's ends a saving is a bound, and counts as that in the mean; 95 % interval over "
        "seeds.",
    )


def mean_saving(savings: Sequence[Saving]) -> str:
    """Return the mean of savings with its interval, in per cent.

    It is a bound where some are; bounds to both sides have no mean.
    """
    bounds = {one.bound for one in savings} - {""}
    if len(bounds) > 1:
        return "-"
    mean = interval([100 * one.share for one in savings])
    text = " ".join([*bounds, f"{mean.mean:.1f} %"])
    if mean.low is None or mean.high is None:
        return text
    return f"{text} [{mean.low:.1f}, {mean.high:.1f}]"


def measures_table(study: Study) -> Table:
    """Return the losses over the whole validation part, as means over seeds."""
    names = _measured(study, lambda name: name.startswith("loss"))
    rows = []
    for variant in study.variants:
        means = (_values(variant, name) for name in names)
        cells = (number(fmean(one.values()) if one else None) for one in means)
        rows.append((variant.name, str(len(variant.runs)), *cells))
    return Table(
        "Loss over the whole validation part",
        ("variant", "seeds", *names),
        tuple(rows),
        "Nats per token at the end, mean over seeds. Quarters are of the position in the sequence; "
        "a shorter length reads the same tokens in windows of that length.",
    )


def quarters_table(study: Study) -> Table:
    """Return how far each variant lies above the baseline by quarter, paired by seed."""
    names = _measured(study, lambda name: name == "loss" or "quarter" in name)
    rows = []
    for variant in study.variants:
        cells = []
        for name in names:
            ours, theirs = _values(variant, name), _values(study.base, name)
            gaps = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
            cells.append(_interval(gaps))
        if variant is not study.base:
            rows.append((variant.name, *cells))
    return Table(
        f"Loss less {study.baseline}'s, over the whole validation part",
        ("variant", *names),
        tuple(rows),
        "Nats per token, paired by seed, with the 95 % interval over seeds.",
    )


def gain_table(study: Study) -> Table:
    """Return what the whole context is worth to each run, over shorter windows."""
    names = _measured(study, lambda name: name.startswith("context gain"))
    rows = []
    for variant in study.variants:
        for run in variant.runs:
            found = [run.measure(name) for name in names]
            cells = (_over_sequences(one, run) if one else "-" for one in found)
            rows.append((variant.name, str(run.seed), *cells))
    return Table(
        "Context gain",
        ("variant", "seed", *names),
        tuple(rows),
        "Loss in shorter windows less the loss at full length, of the same tokens, each with at "
        "least half a window before it; nats, with the 95 % interval over sequences.",
    )


def _over_sequences(measure: Measure, run: Run) -> str:
    if measure.error is None or run.valid is None:
        return f"{measure.value:.3f}"
    margin = -student_quantile(0.025, run.valid.items - 1) * measure.error
    return f"{measure.value:.3f} [{measure.value - margin:z.3f}, {measure.value + margin:z.3f}]"


def _interval(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = interval(values)
    if mean.low is None or mean.high is None:
        return f"{mean.mean:z.3f}"
    return f"{mean.mean:z.3f} [{mean.low:z.3f}, {mean.high:z.3f}]"


def _measured(study: Study, is_asked: Callable[[str], bool]) -> list[str]:
    runs = [run for variant in study.variants for run in variant.runs]
    valid = [run.valid.measures for run in runs if run.valid]
    names = dict.fromkeys(one.name for measures in valid for one in measures)
    return [name for name in names if is_asked(name)]


def _values(variant: Variant, name: str) -> dict[int, float]:
    found = {run.seed: run.measure(name) for run in variant.runs}
    return {seed: one.value for seed, one in found.items() if one}


TABLES: Mapping[str, Callable[[Study], Table]] = {
    "losses": losses_table,
    "seconds": seconds_table,
    "saving": saving_table,
    "whole": measures_table,
    "quarters": quarters_table,
    "gain": gain_table,
}


def panels(study: Study) -> list[plots.Panel]:
    """Return the final loss against seconds, and the loss by position."""
    return [
        plots.Panel(
            "Final validation loss against seconds of training",
            "seconds, by the table",
            "nats per token",
            [_baseline_curve(study), *(_mark(study, one) for one in study.rivals)],
        ),
        plots.Panel(
            "Loss by position, over the whole validation part",
            "position in the sequence",
            "nats per token",
            plots.averaged(list(_by_position(study))),
            log_x=True,
        ),
    ]


def _baseline_curve(study: Study) -> plots.Curve:
    """Return the mean of the seeds' curves, with a band from the lowest to the highest."""
    columns = list(zip(*(one.points for one in study.curves.values()), strict=True))
    losses = [[loss for _, loss in column] for column in columns]
    means = [(column[0][0], fmean(each)) for column, each in zip(columns, losses, strict=True)]
    return plots.Curve(study.baseline, means, band=[(min(each), max(each)) for each in losses])


def _mark(study: Study, variant: Variant) -> plots.Curve:
    """Return a cross: upright from the lowest to the highest seed, with a tick at the mean."""
    losses = list(variant.losses().values())
    at, mean, wide = variant.seconds, fmean(losses), TICK * study.base.seconds
    tick = [(at - wide, mean), (at + wide, mean), (at, mean)]
    return plots.Curve(variant.name, [(at, min(losses)), (at, mean), *tick, (at, max(losses))])


def _by_position(study: Study) -> Iterator[plots.Curve]:
    for variant in (study.base, *study.rivals):
        for run in variant.runs:
            for curve in run.valid.curves if run.valid else ():
                points = list(zip(curve.at, curve.values, strict=True))
                yield plots.Curve(f"{variant.name}/{run.seed}", points, family=variant.name)


def main(words: Sequence[str] | None = None) -> int:
    """Print tables and draw; return the exit code."""
    usage, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=usage, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="STUDY.toml|SECONDS.json")
    parser.add_argument("--picture", type=Path, metavar="NAME", help="writes NAME.svg and NAME.png")
    options = parser.parse_args(words)
    try:
        study = read_studies(options.files)
        for file in options.files:
            if file.suffix != ".json":
                compare(file, packed_beside(file), look=True).print()
        show([make(study) for make in TABLES.values()])
    except LengthenError as error:
        print(f"study: {error}", file=sys.stderr)
        return error.exit_code
    for kind in (".svg", ".png") if options.picture else ():
        place = options.picture.with_suffix(kind)
        place.write_bytes(draw(panels(study), kind))
        print(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())

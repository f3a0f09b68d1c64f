"""Plans with their seconds, side by side: as lines, as a table, as a picture or a page."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.device import gpus
from lengthen.distributed.memory import auto_micro_tokens
from lengthen.model import cost
from lengthen.planning.plan import Plan, PlanPoint, plan, seconds_along
from lengthen.reporting import html as page
from lengthen.reporting.curves import Curve, Panel
from lengthen.training import calibrate
from lengthen.training.calibrate import LIMIT, Speed
from lengthen.training.minutes import in_tokens
from lengthen.util.console import PLAIN_SECONDS
from lengthen.util.disk import Disk
from lengthen.util.errors import SettingError
from lengthen.util.tables import Table, counted

NOTE = "FLOP and seconds are of training alone: evaluation, probes and saves come on top."
SOON = 1.0  # seconds of planning before the first note
PAGE = ".html"
KINDS = (".svg", ".png", PAGE)  # of a picture
TOKENS = "trained tokens"
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")  # of powers of 1000


@dataclass(frozen=True)
class Saving:
    """What a warmup saves of constant full length on as many tokens."""

    causal: float  # share of its FLOP, a token attending to those before it alone
    full: float  # the same with attention counted in full
    seconds: float  # of training

    def __str__(self) -> str:
        flops = f"{self.causal:z.1%} of FLOP with causal attention, {self.full:z.1%} with all of it"
        word = "less" if self.seconds >= 0 else "more"
        return f"{flops}; {in_units(abs(self.seconds))} {word} than full length throughout"


@dataclass(frozen=True)
class Forecast:
    """A plan under a name, with the speed of its steps; an adaptive pacing has two plans."""

    name: str
    config: Config
    plan: Plan
    speed: Speed | None = None  # None until it is measured

    @property
    def machine(self) -> tuple[object, ...]:
        """What has to be alike so that steps of one shape take equally long."""
        run = self.config.run
        how = run.device, run.precision, run.compile, run.recompute
        return self.config.model, self.config.data.documents, self.plan.micro_tokens, *how

    @cached_property
    def seconds(self) -> tuple[float, ...]:
        """Seconds of training so far, at every point of the plan's curve."""
        assert self.speed is not None
        return seconds_along(self.plan, self.speed.seconds)

    @property
    def duration(self) -> float:
        """Seconds of training in all."""
        return self.seconds[-1]

    @cached_property
    def saving(self) -> "Saving":
        """What the warmup saves of constant full length on as many tokens."""
        assert self.speed is not None
        schedule, model = self.plan.schedule, self.config.model
        full, recompute = (schedule.rows, schedule.full_length), self.config.run.recompute
        steps = self.plan.tokens / (schedule.rows * schedule.full_length)

        def share(*, causal: bool) -> float:
            of_step = partial(cost.flops, model, recompute=recompute, causal=causal)
            spent = sum(count * of_step(*shape) for shape, count in self.plan.shapes.items())
            return 1 - spent / (steps * of_step(*full))

        seconds = steps * self.speed.seconds(*full) - self.duration
        return Saving(share(causal=True), share(causal=False), seconds)

    @property
    def time_saved(self) -> float:
        """The share of the seconds of constant full length that the warmup saves."""
        return self.saving.seconds / (self.duration + self.saving.seconds)

    @property
    def decided_on_a_gpu(self) -> bool:
        """Whether the run will try its micro-batch on a GPU, where the plan only estimates it."""
        device = self.config.run.device
        on_gpu = device != "cpu" and (device != "auto" or gpus() > 0)
        return self.config.batch.micro_tokens == "auto" and on_gpu


def forecasts(
    named: Mapping[str, Config], flops: str | None, note: Callable[[str], None]
) -> list[Forecast]:
    """Return the forecast of each configuration, in order; of an adaptive pacing both bounds.

    `flops` is the speed to reckon with, such as "100T"; None means to measure here, once for all
    configurations whose steps take equally long, and `note` gets a line before. Raises SettingError
    where a setting is missing, and DataError for a store that cannot be used.
    """
    planned = [one for name, config in named.items() for one in _planned(name, config, flops, note)]
    if flops is not None:
        return planned
    measured = _measured(planned, note)
    return [replace(one, speed=measured[one.machine]) for one in planned]


def _planned(
    name: str, config: Config, flops: str | None, note: Callable[[str], None]
) -> Iterator[Forecast]:
    sequences = None
    if config.data.path is not None:
        store = open_store(config)
        config = with_store(config, store)
        sequences = store.sequences(config.model.length)
    if config.model.vocabulary is None:
        hint = "give a token store with --data, or --model.vocabulary N"
        raise SettingError("model.vocabulary", "is missing", None, hint)
    micro_tokens = config.batch.micro_tokens
    if micro_tokens == "auto":
        micro_tokens = auto_micro_tokens(config)
    speed = None if flops is None else calibrate.given_speed(config, flops)
    config = in_tokens(config, micro_tokens, speed=speed)
    bounds = {name: True}
    if config.pacing.kind == "adaptive":
        bounds = {f"{name}, quickest": True, f"{name}, slowest": False}
    for bound, calm in bounds.items():
        progress = _now_and_then(note, bound, config.schedule(sequences).budget)
        found = plan(config, micro_tokens, sequences, calm=calm, progress=progress)
        yield Forecast(bound, config, found, speed)


def _now_and_then(note: Callable[[str], None], name: str, budget: int) -> Callable[[int], None]:
    """Return what notes how far a plan is: after a second, and then every ten."""
    due = time.monotonic() + SOON

    def report_progress(tokens: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + PLAIN_SECONDS
            note(f"planning {name}: {100 * tokens // budget} %")

    return report_progress


def _measured(
    planned: Sequence[Forecast], note: Callable[[str], None]
) -> dict[tuple[object, ...], Speed]:
    """Return a speed for every kind of machine work, measured at the shapes of all its plans."""
    groups: dict[tuple[object, ...], list[Forecast]] = {}
    for one in planned:
        groups.setdefault(one.machine, []).append(one)
    speeds = {}
    for machine, group in groups.items():
        names = ", ".join(one.name for one in group)
        note(f"trying steps of {names}, for {LIMIT:.0f} seconds at most")
        shapes = {shape for one in group for shape in one.plan.shapes}
        shapes |= {(one.plan.schedule.rows, one.plan.schedule.full_length) for one in group}
        speeds[machine] = calibrate.measure_speed(
            group[0].config, group[0].plan.micro_tokens, sorted(shapes)
        )
    return speeds


def lines(forecast: Forecast, first: Forecast | None = None) -> list[tuple[str, str]]:
    """Return a forecast as names and texts; FLOP and seconds also as a factor of the `first`."""
    plan, corpus, last = forecast.plan, forecast.plan.corpus, forecast.plan.curve[-1]
    source = "" if forecast.speed is None else forecast.speed.source
    falls = f", falling from {start:,} tokens on" if (start := plan.schedule.decay_start) else ""
    factor = "" if plan.schedule.rate_by_tokens == "none" else ", before rate_by_tokens"
    flops = f" ({plan.flops / first.plan.flops:.3g} x)" if first else ""
    seconds = f" ({forecast.duration / first.duration:.3g} x)" if first else ""
    unit = "sequence" if plan.schedule.leftovers == "in_place" else "row"
    short = f", {plan.short_of_budget:,} short of the budget: less than one more {unit}"
    tried = '; "auto" takes what fits a GPU' * forecast.decided_on_a_gpu
    memory = f"{plan.memory / 1e9:.2f} GB on a processor with {plan.micro_tokens:,} tokens"
    mask = f", {plan.mask / 1e9:.2f} GB of it a document mask, which saves no FLOP"
    rate_at_full = epochs = leftovers = ""
    if plan.full is not None:
        rate_at_full = f"{plan.full.learning_rate:.3g} at its first step, {plan.full.step:,}"
    if corpus is not None:
        unread = f"{corpus.unread:,} tokens of the last one stay unread"
        epochs = f"{corpus.epochs:.3g} epochs; {unread}"
        leftovers = f"{corpus.most_leftover:,} tokens at most, {corpus.leftover:,} at the end"
        if corpus.dropped:
            leftovers = f"{corpus.dropped:,} tokens dropped"
    return [
        ("steps", f"{plan.steps:,}" + _cut(plan)),
        ("tokens", f"{plan.tokens:,}" + short * (plan.short_of_budget > 0)),
        ("lengths", _spread(plan.lengths)),
        ("shapes", f"{len(plan.shapes)} of (rows, length)"),
        ("full length", _full(plan)),
        ("warm-up of the learning rate", _warmup(plan) + factor),
        ("learning rate at full length", rate_at_full or "full length is not reached"),
        (
            "learning rate at the end",
            f"{last.learning_rate:.3g} at step {last.step:,}, after {last.tokens_before:,} tokens",
        ),
        ("lowest learning rate", _lowest(plan) + falls + factor),
        ("parameters", f"{plan.parameters:,}"),
        ("arithmetic", f"{plan.flops:.3g} FLOP, attention at its real length{flops}"),
        ("memory", f"{memory} in a micro-batch" + mask * (plan.mask > 0) + tried),
        ("time", f"{in_units(forecast.duration)}{seconds}"),
        ("saved by the warmup", str(forecast.saving)),
        ("speed", f"{plan.flops / forecast.duration / 1e9:,.0f} GFLOP/s, {source}"),
        ("corpus", epochs or "give --data to know"),
        ("leftovers", leftovers or "give --data to know"),
    ]


def _cut(plan: Plan) -> str:
    before, last = plan.curve[max(0, len(plan.curve) - 2)], plan.curve[-1]
    if last.length != before.length or last.rows >= before.rows:
        return ""
    return f", the last one with {counted(last.rows, 'row')}, which the budget leaves"


def _spread(lengths: dict[int, int]) -> str:
    first, last = min(lengths), max(lengths)
    if first == last:
        return f"{first} at every step"
    return f"{first} to {last}, {len(lengths)} of them; {counted(lengths[last], 'step')} at {last}"


def _full(plan: Plan) -> str:
    pacing, full_length = plan.schedule.pacing, plan.schedule.full_length
    if pacing.of == "length" and pacing.end < full_length:
        return f"never: pacing.end is {pacing.end}, model.length {full_length}"
    if plan.full is None:
        return "not reached within the budget"
    return "from the first step on" if plan.full.step == 1 else _begins(plan.full, plan)


def _begins(point: PlanPoint, plan: Plan) -> str:
    share = 100 * point.tokens_before / plan.tokens
    return f"from step {point.step:,} on, after {point.tokens_before:,} tokens ({share:.0f} %)"


def _warmup(plan: Plan) -> str:
    whole = plan.schedule.warmup_steps
    if whole == 0:
        return f"none: {plan.schedule.learning_rate:g} from the first step on"
    took = f"{counted(plan.warmup_steps, 'step')}, {counted(plan.warmup_tokens, 'token')}"
    if plan.warmup_steps < whole:
        return f"{took}: the budget ends before its {counted(whole, 'step')}"
    return f"{took}, up to {plan.schedule.learning_rate:g}"


def _lowest(plan: Plan) -> str:
    schedule = plan.schedule
    if schedule.rate_schedule == "constant":
        return f"{schedule.learning_rate:g}: it never falls"
    if plan.lowest is not None:
        return f"{schedule.min_learning_rate:g} {_begins(plan.lowest, plan)}"
    if plan.steps <= schedule.warmup_steps:
        return "not reached: the budget ends while the learning rate warms up"
    lowest = f"{schedule.min_learning_rate:g} after {schedule.decay_tokens:,} tokens"
    if schedule.decay_tokens > schedule.budget:
        return f"not reached: it would be {lowest}, beyond the budget"
    return f"{lowest}, where the budget ends"


def in_units(seconds: float) -> str:
    """Return seconds in the unit that people would take."""
    for unit, size in (("years", 31_557_600), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return counted(seconds, "second")


def table(forecasts: Sequence[Forecast]) -> Table:
    """Return the lines of several forecasts, a column each."""
    columns = [lines(one, None if one is forecasts[0] else forecasts[0]) for one in forecasts]
    return Table(
        title="Plan",
        columns=("", *(one.name for one in forecasts)),
        rows=tuple((row[0][0], *(text for _, text in row)) for row in zip(*columns, strict=True)),
        note=f"{NOTE} A factor is that of the first column.",
    )


def panels(forecasts: Sequence[Forecast]) -> list[Panel]:
    """Return what a run looks like against trained tokens, a curve for each forecast."""
    scale, prefix = _scale(max(one.plan.flops for one in forecasts))
    by_token: list[tuple[str, str, Callable[[PlanPoint], float | None]]] = [
        ("Length", "tokens in a row", lambda p: p.length),
        ("Tokens per step", "tokens in a step", lambda p: p.step_tokens),
        ("Learning rate by token", "learning rate", lambda p: p.learning_rate),
        ("FLOP so far", f"{prefix}FLOP", lambda p: p.flops / scale),
    ]
    if any(one.plan.corpus is not None for one in forecasts):
        by_token.append(("Leftovers", "tokens", lambda p: p.leftover))
    panels = []
    for title, unit, value in by_token:
        curves = []
        for one in forecasts:
            pairs = ((point.tokens, value(point)) for point in one.plan.curve)
            curves.append(Curve(one.name, [(x, y) for x, y in pairs if y is not None]))
        panels.append(Panel(title, TOKENS, unit, curves))
    by_step, seconds = [], []
    for one in forecasts:
        by_step.append(Curve(one.name, [(p.step, p.learning_rate) for p in one.plan.curve]))
        tokens = (point.tokens for point in one.plan.curve)
        seconds.append(Curve(one.name, list(zip(tokens, one.seconds, strict=True))))
    panels.insert(3, Panel("Learning rate by step", "step", "learning rate", by_step))
    panels.insert(5, Panel("Seconds so far", TOKENS, "seconds", seconds))
    return panels


def _scale(most: float) -> tuple[float, str]:
    """Return the power of 1000 that leaves `most` a short number, and its prefix."""
    power = min(int(math.log10(max(1.0, most))) // 3, len(PREFIXES) - 1)
    return 1000.0**power, PREFIXES[power]


def check_out(out: Path) -> None:
    """Raise SettingError where a picture cannot become the file `out`."""
    if out.suffix not in KINDS:
        raise SettingError("--out", f"must end in {', '.join(KINDS[:-1])} or {PAGE}", str(out))
    if out.is_dir() or not out.parent.is_dir():
        raise SettingError("--out", "must be a file in a directory that exists", str(out))


def write(out: Path, forecasts: Sequence[Forecast]) -> None:
    """Write the panels as one SVG or PNG, or with the table as one page where `out` ends in .html.

    Raises SettingError as `check_out` does, StorageError where the disk refuses it.
    """
    check_out(out)
    if out.suffix != PAGE:
        from lengthen.reporting.figures import draw  # matplotlib, which no other command waits for

        Disk().replace_file(out, draw(panels(forecasts), out.suffix))
        return
    title = f"Plan: {', '.join(one.name for one in forecasts)}"
    page.write(out, [], title=title, tables=[table(forecasts)], panels=panels(forecasts))

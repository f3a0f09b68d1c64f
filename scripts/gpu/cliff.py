"""Where a high learning rate breaks a tiny model, and what a length warmup does there.

R1 of a survey: length 256, 128 rows, AdamW with betas 0.9 and 0.999, clipping at 1, 200 steps of
warm-up, a cosine over 5,000 updates. First constant length at four rates around the cliff, all at
once; then, at the lowest rates that broke, at once too:

    slw      length from 8 to 256, rows held: the paper's
    short    length 32 throughout, tokens a step held: if it breaks too, length is no cure
    rows     rows from 4 to 128: as many tokens in every step as `slw`, at full length

Where no rate broke, constant length and `slw` at two higher ones. A rate broke if the probe's loss
rose above 1.2 times its lowest after the warm-up, or if the validation loss ends 0.3 nats above the
best rate's. The model is the largest of three with which two rounds of 5,000 updates fit in.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from lengthen.config.recipes import rows_with_the_same_tokens
from lengthen.config.schema import Config
from scripts.gpu.parts import Call, called
from scripts.gpu.runs import configured, forget_weights, metrics_of, train, write_outcome
from scripts.gpu.store import store_of

ROWS, LENGTH, SHORT, START = 128, 256, 32, 8
RATES = (5e-3, 1e-2, 2e-2, 4e-2)  # at width 256; others as the width falls
WIDTH = 256
RATIO, GAP = 1.2, 0.3  # of the probe; nats
GROWN = 0.4  # of the updates, in which `slw` and `rows` grow
KINDS = ("slw", "short", "rows")  # at a rate that broke, most telling first
BESIDE = 15.0  # seconds of a round that are no training: Python, the GPU, the save
MARGIN = 1.15  # on the seconds of a round: probes, evaluations, the short steps of a warmup
FIRST = 0.6  # of the time left, that the first round may take
ENDING = 3.0  # seconds to write down what the second round came to
LAST = 100  # steps whose mean loss is written down

Shape = dict[str, int]


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    shapes: tuple[Shape, ...]  # the largest first
    updates: int
    warmup: int
    trial: int  # updates that show the seconds of one
    rates: int  # how many


LARGE = Scale(
    (
        {"layers": 8, "width": 256, "heads": 4},
        {"layers": 8, "width": 128, "heads": 2},
        {"layers": 4, "width": 128, "heads": 2},
    ),
    updates=5000,
    warmup=200,
    trial=200,
    rates=4,
)
TINY = Scale(
    ({"layers": 2, "width": 32, "heads": 2}, {"layers": 1, "width": 16, "heads": 1}),
    updates=20,
    warmup=2,
    trial=6,
    rates=2,
)


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    rate: float
    loss: float | None  # of the last validation, nats; None: it got to none
    ratio: float  # the highest of the probe after the warm-up
    nonfinite: int  # steps

    def broke(self, best: float) -> bool:
        """Return whether it broke, where the best rate came to the loss `best`."""
        worse = self.loss is not None and self.loss > best + GAP
        return worse or self.ratio > RATIO or self.nonfinite > 0


def name_of(kind: str, rate: float) -> str:
    """Return the name of a training."""
    return f"{kind}-{rate:g}"


def configuration(
    call: Call, scale: Scale, shape: Shape, store: Path, kind: str, rate: float
) -> Config:
    """Return a training of one kind, on as many tokens as all others."""
    rows, length = (4, 32) if call.rehearse else (ROWS, LENGTH)
    short = length * SHORT // LENGTH
    grows = {"kind": "linear", "start": START, "duration": round(GROWN * scale.updates)}
    tables: dict[str, Any] = {
        "data": {"path": str(store)},
        "model": {**shape, "length": length, "positions": "rope"},
        "pacing": grows if kind in ("slw", "rows") else {"kind": "constant"},
        "batch": {"rows": rows},
        "optimizer": {
            "learning_rate": rate,
            "min_learning_rate": min(rate, 1e-4),
            "warmup_steps": scale.warmup,
            "betas": (0.9, 0.999),
            "weight_decay": 0.01,
        },
        "budget": {"tokens": scale.updates * rows * length},
        "evaluation": {
            "every_tokens": max(1, scale.updates // 10) * rows * length,
            "probe_every_steps": min(50, scale.warmup),
        },
    }
    if kind == "rows":
        tables = rows_with_the_same_tokens(tables)
    if kind == "short":
        tables["model"]["length"], tables["batch"]["rows"] = short, rows * length // short
    return configured(call, tables)


def rates_of(scale: Scale, shape: Shape) -> tuple[float, ...]:
    """Return the rates of a shape: a narrower one breaks at higher ones."""
    return tuple(rate * WIDTH / shape["width"] for rate in RATES[: scale.rates])


def seconds_of_an_update(call: Call, names: Iterable[str]) -> float:
    """Return those of the slowest training, in its middle third, where all of them train."""
    found = []
    for name in names:
        steps = metrics_of(call, name).steps
        third = len(steps) // 3
        first, last = steps[third], steps[2 * third]
        found.append(((last.seconds or 0.0) - (first.seconds or 0.0)) / third)
    return max(found)


def shape_that_fits(call: Call, scale: Scale, store: Path, end: float) -> Shape:
    """Return the largest shape with which two rounds fit in before `end`; the last one untried."""
    *tried, smallest = scale.shapes
    trial = replace(scale, updates=scale.trial)
    for shape in tried:
        configs = {
            f"trial-{shape['layers']}-{shape['width']}-{rate:g}": configuration(
                call, trial, shape, store, "constant", rate
            )
            for rate in rates_of(scale, shape)
        }
        train(call, configs, end - time.monotonic())
        each = seconds_of_an_update(call, configs)
        left = end - time.monotonic()
        call.write(shape=shape, at_once=len(configs), update_seconds=each, seconds_left=left)
        for name in configs:
            forget_weights(call, name)
        if 2 * (BESIDE + MARGIN * each * scale.updates) <= left:
            return shape
    return smallest


def outcome(call: Call, kind: str, rate: float, warmup: int) -> Outcome:
    """Write down and return what a training came to, whole or cut."""
    name = name_of(kind, rate)
    metrics = metrics_of(call, name)
    losses = [each.loss for each in metrics.evaluations if each.loss is not None]
    ratios = [each.loss_ratio or 0.0 for each in metrics.probes if each.step > warmup]
    nonfinite = sum(not step.is_finite for step in metrics.steps)
    found = Outcome(rate, losses[-1] if losses else None, max(ratios, default=0.0), nonfinite)
    last = [step.loss for step in metrics.steps[-LAST:] if step.loss is not None]
    write_outcome(
        call,
        name,
        highest_ratio=found.ratio,
        mean_of_last_losses=fmean(last) if last else None,
        largest_logit=max((step.largest_logit or 0.0 for step in metrics.steps), default=0.0),
        nonfinite_steps=nonfinite,
    )
    forget_weights(call, name)
    return found


def trained(
    call: Call,
    scale: Scale,
    shape: Shape,
    store: Path,
    trainings: Sequence[tuple[str, float]],
    seconds: float,
) -> list[Outcome]:
    """Train kinds at rates, all at once; return what each came to."""
    configs = {name_of(*one): configuration(call, scale, shape, store, *one) for one in trainings}
    train(call, configs, seconds)
    return [outcome(call, *one, scale.warmup) for one in trainings]


def broken(outcomes: Sequence[Outcome]) -> list[float]:
    """Return the rates that broke, the lowest first."""
    best = min((one.loss for one in outcomes if one.loss is not None), default=0.0)
    return sorted(one.rate for one in outcomes if one.broke(best))


def second_round(rates: Sequence[float], broken: Sequence[float]) -> list[tuple[str, float]]:
    """Return the kind and rate of each training of the second round, no more than of the first."""
    higher = [(kind, max(rates) * factor) for factor in (2, 4) for kind in ("constant", "slw")]
    at_broken = [(kind, rate) for rate in broken for kind in KINDS]
    return (at_broken or higher)[: len(rates)]


def main(call: Call) -> None:
    """Find the shape, then train both rounds."""
    end = time.monotonic() + call.seconds - ENDING
    scale, store = TINY if call.rehearse else LARGE, store_of(call)
    shape = shape_that_fits(call, scale, store, end)
    rates = rates_of(scale, shape)
    constant = [("constant", rate) for rate in rates]
    found = trained(call, scale, shape, store, constant, FIRST * (end - time.monotonic()))
    chosen = second_round(rates, broken(found))
    call.write(shape=shape, broken=broken(found), second_round=chosen)
    trained(call, scale, shape, store, chosen, end - time.monotonic())


if __name__ == "__main__":
    main(called())

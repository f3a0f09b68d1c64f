"""Print what a warmup saves of full length throughout on as many tokens, by shape and full length.

    python -m scripts.predicted_saving [SECONDS.json ...]

Tokens a step are held. The FLOP are those of `lengthen plan`. A table of seconds, which `make gpu`
measures in its parts `lengths` and `long`, and `benchmarks.seconds` on a processor, adds the share
of a device's time, for the model that it was measured with and no further than its lengths go.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from lengthen.config.load import build
from lengthen.config.recipes import RECIPES
from lengthen.config.schema import Config
from lengthen.experiments.compare.seconds import SecondsTable, read_seconds, shape_of
from lengthen.planning.forecast import Forecast
from lengthen.planning.plan import Plan, plan, seconds_along
from lengthen.training.calibrate import given_speed
from lengthen.util.errors import SettingError
from lengthen.util.tables import Table, show

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-117m": {**RECIPES["gpt2-117m"]()["model"], "vocabulary": 50_257},
    "llama-125m": {**RECIPES["llama-125m"]()["model"], "vocabulary": 32_000},
}
LENGTHS = tuple(2**power for power in range(12, 18))
START, STEPS, GROWS = 256, 1000, 800  # the first length; steps; those of them before full length
STEP_TOKENS = 2**19
NOTE = (
    f"Doubling: each length from {START} on for an equal share of 80 % of the steps, then full "
    f"length. {START}: that length for 80 %, then full length. Causal: a token attends to those "
    "before it alone; in full: attention as a whole square."
)


def schedules(full: int) -> dict[str, dict[str, Any]]:
    """Return the pacings whose saving is shown."""
    return {
        "doubling": {"kind": "doubling", "start": START, "duration": GROWS},
        str(START): {"kind": "staged", "values": (START, full), "boundaries": (GROWS,)},
    }


def configuration(model: Mapping[str, Any], full: int, pacing: Mapping[str, Any]) -> Config:
    """Return a training of a shape at a full length."""
    return build(
        {
            "model": {**model, "length": full},
            "pacing": pacing,
            "batch": {"rows": STEP_TOKENS // full, "hold": "tokens"},
            "optimizer": {"learning_rate": 6e-4},
            "budget": {"tokens": STEPS * STEP_TOKENS},
        }
    )


def saved(config: Config, seconds: SecondsTable | None) -> Iterator[str]:
    """Yield the shares that a warmup saves: of causal FLOP, of FLOP in full, of seconds."""
    full = config.model.length
    planned = plan(config, full)
    flops = Forecast("", config, planned, given_speed(config, "1T")).saving
    yield from (f"{share:.0%}" for share in (flops.causal, flops.full))
    yield "-" if seconds is None else seconds_saved(planned, seconds)


def seconds_saved(planned: Plan, seconds: SecondsTable) -> str:
    """Return the share of the seconds of full length; "-" where the table does not go so far."""
    schedule = planned.schedule
    try:
        whole = planned.steps * seconds.of_step(schedule.rows, schedule.full_length)
        return f"{1 - seconds_along(planned, seconds.of_step)[-1] / whole:.0%}"
    except SettingError:
        return "-"


def table(measured: Mapping[str, SecondsTable]) -> Table:
    """Return the savings: a row for each shape and full length, tables of seconds by their names.

    A table whose model has none of our shapes adds its own.
    """
    known = {name: shape_of(model) for name, model in SHAPES.items()}
    shapes, timed = dict(known), {}
    for file, seconds in measured.items():
        model = shape_of(seconds.model)
        name = next((name for name, shape in known.items() if shape == model), file)
        shapes[name], timed[name] = model, seconds
    rows = []
    for name, model in shapes.items():
        for full in LENGTHS:
            configs = (configuration(model, full, one) for one in schedules(full).values())
            cells = (cell for one in configs for cell in saved(one, timed.get(name)))
            rows.append((name, str(full), *cells))
    kinds = ("causal FLOP", "FLOP in full", "seconds")
    columns = [f"{name}: {kind}" for name in schedules(0) for kind in kinds]
    devices = "".join(f" Seconds of {name}: {one.machine}." for name, one in timed.items())
    title = "What a warmup saves of full length throughout"
    return Table(title, ("shape", "full length", *columns), tuple(rows), NOTE + devices)


def main(files: list[str]) -> str | None:
    """Print the table; return what is wrong with a file."""
    try:
        show([table({file: read_seconds(file) for file in files})])
    except SettingError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

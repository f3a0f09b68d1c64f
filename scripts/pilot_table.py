"""Print what the pilot of studies/long.toml saw, from its packed runs.

python -m scripts.pilot_table studies/pilot.tar.xz
"""

import sys
from pathlib import Path

from lengthen.config.load import load
from lengthen.evaluation.evaluate import VALID
from lengthen.evaluation.results import read
from lengthen.experiments.compare.file import RUNS
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.packed import opened
from lengthen.util.tables import Table, number, show

AT = (800_000, 1_600_000)  # tokens; a run is evaluated within a step of them
GAIN = "context gain over 512"


def pilot_table(packed: Path) -> Table:
    """Return the losses of each run on its way, and what it gains from a context beyond 512."""
    with opened(packed) as folder:
        runs = sorted(log.parent for log in (folder / RUNS).rglob("metrics.jsonl"))
        rows = tuple((run.parent.name, *_cells(run)) for run in runs)
    losses = (*(f"after {at / 1e6:g} M" for at in AT), "the last loss")
    columns = ("text", "tokens a step", "rate", "positions", *losses, "gain over 512")
    note = (
        "Validation loss after so many tokens, nats per token, one seed. The gain: loss in windows "
        "of 512 less the loss at length 4,096, of the same tokens, each with at least half a "
        "window before it, after the tokens behind it (standard error)."
    )
    return Table("The pilot of `long.toml`", columns, rows, note)


def _cells(run: Path) -> tuple[str, ...]:
    config, evaluations = load(str(RunPaths(run).config))[0], read_metrics(run).evaluations
    losses = [(one.tokens or 0, one.loss) for one in evaluations]
    step = config.batch.rows * config.model.length
    at = [next((number(loss) for at, loss in losses if abs(at - asked) < step), "") for asked in AT]
    last = f"{number(losses[-1][1])} after {losses[-1][0] / 1e6:.1f} M"
    rate = f"{config.optimizer.learning_rate:g}"
    return (f"{step:,}", rate, config.model.positions, *at, last, _gain(run, step))


def _gain(run: Path, step: int) -> str:
    results = [one for one in read(RunPaths(run).evaluations) if one.outcome.task == VALID]
    measures = results[-1].outcome.measures if results else ()
    found = next((one for one in measures if one.name == GAIN), None)
    if found is None:
        return ""
    after = (results[-1].step or 0) * step / 1e6
    return f"{found.value:.3f} ({found.error:.4f}) after {after:.1f} M"


if __name__ == "__main__":
    show([pilot_table(Path(sys.argv[1]))])

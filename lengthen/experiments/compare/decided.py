"""One decision for every "auto" of a comparison's runs, whenever and wherever they are trained."""

from dataclasses import replace
from pathlib import Path

from lengthen.config.load import AUTO, with_auto_as
from lengthen.config.schema import Config, Run
from lengthen.data.open_store import open_store
from lengthen.data.store import Store
from lengthen.data.store_manifest import MANIFEST
from lengthen.distributed.auto import decided_alike
from lengthen.experiments.command import Command
from lengthen.experiments.compare.declared import decided_before
from lengthen.experiments.compare.file import Comparison, Planned


def decided_in(comparison: Comparison, root: Path, *, only_declared: bool = False) -> Comparison:
    """Return a comparison with one decision for every "auto" of its runs, and why.

    It is the decision that was declared in `root`, if one was. A run whose store is not there is
    finished, or will be refused: it has no say. With `only_declared` nothing is decided about runs
    that somebody trained by hand.
    """
    before = decided_before(comparison, root)
    if only_declared and before is None:
        return comparison
    ours = [run for run in comparison.runs if isinstance(run.asked, Config)]
    known = {run.name: with_auto_as(run.config, before or Run()) for run in ours}
    stores = {run.name: store for run in ours if (store := store_of(run)) is not None}
    configs, reasons = decided_alike([(known[name], store) for name, store in stores.items()])
    known |= dict(zip(stores, configs, strict=True))
    became = {
        name: getattr(known[run.name].run, name)
        for run in ours
        for name in AUTO
        if getattr(run.config.run, name) == "auto"
    }
    runs = tuple(replace(run, asked=known.get(run.name, run.asked)) for run in comparison.runs)
    return replace(comparison, runs=runs, became=became, reasons=tuple(reasons))


def store_of(run: Planned) -> Store | None:
    """Return the store of a run, if it is there: what is finished needs none."""
    path = None if isinstance(run.asked, Command) else run.config.data.path
    if path is None or not (Path(path) / MANIFEST).is_file():
        return None
    return open_store(run.config)

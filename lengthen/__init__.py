"""Sequence length warmup for GPT pre-training: start short, lengthen, count every token.

What the command line does is a call here, with the same names; docs/api.md has every name
with an example. Nothing heavy is imported before a name that needs it is used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lengthen.core.custom_pacing import Custom
    from lengthen.core.pacing import Adaptive, Constant, Doubling, Linear, Root, Staged
    from lengthen.data.prepare import prepare
    from lengthen.data.store import Store
    from lengthen.evaluation.evaluate import evaluate
    from lengthen.exchange.pretrained import load
    from lengthen.experiments.compare.compare import compare
    from lengthen.experiments.plans import plan
    from lengthen.experiments.tune.tune import tune
    from lengthen.integrations.data_plan import DataPlan
    from lengthen.integrations.plain import BatchStream
    from lengthen.integrations.run_log import RunLog
    from lengthen.reporting.report import report
    from lengthen.run.metrics import read_metrics
    from lengthen.training.branch import branch
    from lengthen.training.start import resume, train

    __version__: str

__all__ = [
    "Adaptive",
    "BatchStream",
    "Constant",
    "Custom",
    "DataPlan",
    "Doubling",
    "Linear",
    "Root",
    "RunLog",
    "Staged",
    "Store",
    "branch",
    "compare",
    "evaluate",
    "load",
    "plan",
    "prepare",
    "read_metrics",
    "report",
    "resume",
    "train",
    "tune",
]

_MODULES = {
    "core.custom_pacing": ("Custom",),
    "core.pacing": ("Adaptive", "Constant", "Doubling", "Linear", "Root", "Staged"),
    "data.prepare": ("prepare",),
    "data.store": ("Store",),
    "evaluation.evaluate": ("evaluate",),
    "exchange.pretrained": ("load",),
    "experiments.compare.compare": ("compare",),
    "experiments.plans": ("plan",),
    "experiments.tune.tune": ("tune",),
    "integrations.data_plan": ("DataPlan",),
    "integrations.plain": ("BatchStream",),
    "integrations.run_log": ("RunLog",),
    "reporting.report": ("report",),
    "run.metrics": ("read_metrics",),
    "training.branch": ("branch",),
    "training.start": ("resume", "train"),
}
_HOME = {name: f"lengthen.{module}" for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a type checker that saw it would take every name for one of ours

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version  # takes longer than all the rest

            return version("lengthen")
        if name not in _HOME:
            raise AttributeError(f"module 'lengthen' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

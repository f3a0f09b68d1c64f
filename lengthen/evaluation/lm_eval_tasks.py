"""Everything else: EleutherAI's lm-eval, with our model behind it.

    lengthen eval RUN --tasks lm-eval:mmlu
    python -m lengthen.evaluation.lm_eval_tasks --model lengthen --model_args path=RUN --tasks mmlu

The second is lm-eval's own command line, with all its options and one more model; its registry asks
nobody for models that it does not know, so `lm_eval --model lengthen` would not find it.
"""

import importlib
import os
import sys
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lengthen.data.store import one_line
from lengthen.distributed.memory import is_out_of_memory
from lengthen.evaluation.lm_eval_adapter import Adapter
from lengthen.evaluation.model import Subject
from lengthen.evaluation.outcome import Measure, Outcome
from lengthen.util.errors import DataError, LengthenError, SettingError, nearest

NAME = "lengthen"
BOOTSTRAPS = 1000  # resamples for the errors that lm-eval has no formula for


def run(
    subject: Subject,
    names: Sequence[str],
    include: Path | None = None,
    shots: int = 0,
    limit: int | None = None,
) -> list[Outcome]:
    """Return the outcome of each of lm-eval's tasks or groups that `names` has.

    `include` is a folder with task files of one's own. Raises SettingError where lm-eval is missing
    or knows no such task, DataError where it fails.
    """
    manager = _manager(names, include)
    return [_outcome(model_class()(subject), manager, name, shots, limit) for name in names]


def model_class() -> Any:
    """Return the class that lm-eval knows as `lengthen`; raises SettingError without lm-eval."""
    # Made when asked for: lm-eval is an extra, and takes a second to import.
    base = _library("lm_eval.api.model").LM
    return types.new_class("Lengthen", (Adapter, base))


def register() -> None:
    """Make the model known to lm-eval in this process."""
    registry = _library("lm_eval.api.registry")
    _library("lm_eval.models")
    if NAME not in registry.model_registry:
        registry.register_model(NAME)(model_class())


def _manager(names: Iterable[str], include: Path | None) -> Any:
    """Return lm-eval's index of tasks, its own only where they are asked for: they take seconds."""
    library = _library("lm_eval.tasks")
    folder = None if include is None else str(include)
    manager = library.TaskManager(include_path=folder, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = library.TaskManager(include_path=folder)
    for name in names:
        if name not in manager.all_tasks:
            raise SettingError("--tasks", "lm-eval has no such task", name, _nearest(name, manager))
    return manager


def _nearest(name: str, manager: Any) -> str:
    hint = nearest(name, manager.all_tasks)
    return hint if hint.startswith("did") else "`lm_eval ls tasks` lists them"


def _outcome(adapter: Any, manager: Any, name: str, shots: int, limit: int | None) -> Outcome:
    # In this process: its own pool would copy a process that has threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    began = time.monotonic()
    try:
        told = _library("lm_eval").simple_evaluate(
            model=adapter,
            tasks=[name],
            num_fewshot=shots or None,  # None: as many as the task itself says
            limit=limit,
            bootstrap_iters=BOOTSTRAPS,
            log_samples=False,
            task_manager=manager,
            # None: the state of random numbers is the caller's.
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    except LengthenError:
        raise
    except Exception as error:  # it and the libraries below it raise all kinds
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise  # of memory, which `judge` says
        raise DataError(f"lm-eval: task {name} failed ({one_line(error)})") from None
    counts = told["n-samples"].values()
    version = metadata.version("lm_eval")
    return Outcome(
        task=f"lm-eval:{name}",
        items=sum(count["effective"] for count in counts),
        tokens=adapter.tokens,
        seconds=time.monotonic() - began,
        measures=tuple(_measures(told["results"])),
        settings=(
            ("lm-eval", version),
            ("shots", str(told["n-shot"].get(name, shots))),
            ("requests SHA-256", adapter.asked.hexdigest()),
        ),
    )


def _measures(results: dict[str, dict[str, Any]]) -> Iterator[Measure]:
    for task, values in results.items():
        owner = f"{task}: " if len(results) > 1 else ""
        for key, value in values.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{kind}")
            yield Measure(
                owner + metric + ("" if kind == "none" else f" ({kind})"),
                float(value),
                float(error) if isinstance(error, int | float) else None,
            )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        rule = "tasks of lm-eval need the package lm_eval"
        raise SettingError("--tasks", rule, hint="pip install 'lengthen[eval]'") from None


def main() -> None:
    """Be lm-eval's command line, with one more model."""
    try:
        register()
        _library("lm_eval.__main__").cli_evaluate()
    except LengthenError as error:
        print(f"lengthen: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

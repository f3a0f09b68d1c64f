"""Models and tasks side by side: which tasks run, in which order, and where results go."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lengthen.distributed.context import DTYPES
from lengthen.distributed.memory import is_out_of_memory
from lengthen.evaluation import lm_eval_adapter, results
from lengthen.evaluation.lambada import lambada
from lengthen.evaluation.lm_eval_adapter import PREFIX
from lengthen.evaluation.models import (
    EvalModel,
    EvalOptions,
    NamedModel,
    find_models,
    load,
    require_same_tokenizer,
)
from lengthen.evaluation.positions import valid
from lengthen.evaluation.results import Outcome, Result
from lengthen.evaluation.tables import tables
from lengthen.evaluation.task_files import LAMBADA, LM_EVAL_TASKS, WIKITEXT
from lengthen.evaluation.wikitext103 import wikitext103
from lengthen.util.console import note
from lengthen.util.disk import Disk, PathOrPaths, as_paths, optional_path
from lengthen.util.errors import MemoryLimitError, SettingError, nearest
from lengthen.util.tables import Printable, Table, counted

ALL = "all"
VALID = "valid"

# The tasks that have a set, by name.
TASKS: dict[str, Callable[[EvalModel, EvalOptions], Outcome]] = {
    WIKITEXT.name: wikitext103,
    LAMBADA.name: lambada,
    **{name: partial(lm_eval_adapter.run_task, name) for name in LM_EVAL_TASKS},
}
FILES = {WIKITEXT.name: WIKITEXT, LAMBADA.name: LAMBADA, **LM_EVAL_TASKS}


def choose_tasks(
    words: str, models: Sequence[NamedModel], data: Path | None, options: EvalOptions
) -> list[str]:
    """Return the names of the tasks in a text such as "valid,lambada", each once.

    "all" is every task whose set is found, `valid` where each model has a store. Raises
    SettingError for a name that is none and for a set that is not there, DataError for a store that
    cannot be used: all of it before any work.
    """
    names = list(dict.fromkeys(filter(None, (word.strip() for word in words.split(",")))))
    if not names:
        raise SettingError("--tasks", "names none", words, nearest("", [VALID, *TASKS, ALL]))
    for name in names:
        if name not in (VALID, ALL, *TASKS) and not name.startswith(PREFIX):
            hint = nearest(name, [VALID, *TASKS, ALL, f"{PREFIX}NAME"])
            raise SettingError("--tasks", "no such task", name, hint)
    if ALL in names:
        names = list(dict.fromkeys([*_possible(models, data, options.sets), *names]))
        names.remove(ALL)
    _require_data(names, models, data, options.sets)
    return names


def _possible(models: Sequence[NamedModel], data: Path | None, sets: Path | None) -> list[str]:
    has_store = data or all(model.config and model.config.data.path for model in models)
    possible = [VALID] if has_store else []
    possible += [name for name, files in FILES.items() if files.find(sets)]
    if not possible:
        raise SettingError("--tasks", "no set is found, and no store", ALL, "name them by --sets")
    return possible


def _require_data(
    names: Sequence[str], models: Sequence[NamedModel], data: Path | None, sets: Path | None
) -> None:
    """Raise what a set, a store or a library that is missing raises, before a model is loaded."""
    with_set = [name for name in names if name in TASKS]
    if sets and sets.is_file() and len(with_set) > 1:
        rule = f"must be a folder, since {len(with_set)} tasks have a set"
        raise SettingError("--sets", rule, str(sets))
    for name in with_set:
        FILES[name].require(sets)
    if VALID in names:
        for model in models:
            model.store(data)
    if any(name in LM_EVAL_TASKS or name.startswith(PREFIX) for name in names):
        lm_eval_adapter.model_class()


@dataclass(frozen=True, repr=False)
class Evaluations(Printable):
    """What was measured; its text is the tables that `lengthen eval` prints."""

    measured: tuple[tuple[NamedModel, Result], ...]  # model by model, in the order of the tasks

    @property
    def results(self) -> dict[str, list[Result]]:
        """The results by the name of the model."""
        names = dict.fromkeys(model.name for model, _ in self.measured)
        return {name: [r for model, r in self.measured if model.name == name] for name in names}

    @property
    def parts(self) -> list[Table | str]:
        """Tables of all models, and the files with the results."""
        files = dict.fromkeys(str(model.results) for model, _ in self.measured)
        return [*tables(self.results), *files]


def evaluate(
    models: PathOrPaths,
    tasks: str | Sequence[str],
    *,
    sets: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    shots: int = 0,
    stride: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    windows: Sequence[int] = (),
    precision: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_result: Callable[[NamedModel, Result], None] | None = None,
) -> Evaluations:
    """Run tasks on trained models: runs, checkpoints of runs, Transformers folders.

    `tasks` are names, also as one text with commas: "valid", "wikitext103", "lambada", one of the
    published sets, "lm-eval:NAME", or "all"; `sets` is the folder with their files, `data` the
    token store for "valid" (the run's own). `shots` solved questions, drawn by `seed`, precede each
    question; `limit` takes only the first items; `stride` is for "wikitext103", `windows` are the
    shorter lengths of "valid". `precision` is by default fp32, or fp64 for fp64 weights. Every
    result goes into the file `out`, or beside its model, and to `on_result`, before the next task.
    Raises SettingError, DataError, CheckpointError and MemoryLimitError.

    >>> evaluations = lengthen.evaluate("runs/first", "valid", limit=4)
    >>> (result,) = evaluations.results["first"]
    >>> result.outcome.measures[0].value < 6
    True
    """
    options = EvalOptions(optional_path("sets", sets), shots, limit, stride, seed, tuple(windows))
    if precision not in (None, *DTYPES):
        raise SettingError("precision", f"must be {', '.join(DTYPES)} or None", precision)
    named = find_models(as_paths("models", models), optional_path("out", out))
    store = optional_path("data", data)
    words = tasks if isinstance(tasks, str) else ",".join(tasks)
    measured = []
    names = choose_tasks(words, named, store, options)
    for model, result in _evaluate_each(named, names, options, store, precision):
        measured.append((model, result))
        if on_result:
            on_result(model, result)
    return Evaluations(tuple(measured))


def _evaluate_each(
    models: Sequence[NamedModel],
    tasks: Sequence[str],
    options: EvalOptions,
    data: Path | None,
    precision: str | None,
) -> Iterator[tuple[NamedModel, Result]]:
    """Yield the result of each task for each model, after it is in the model's file."""
    for path in {model.results for model in models}:
        results.read(path)  # a file that is not ours would cost the first task otherwise
    for named in models:
        for result in _evaluate_one(named, tasks, options, data, precision):
            yield named, result


def _evaluate_one(
    named: NamedModel,
    tasks: Sequence[str],
    options: EvalOptions,
    data: Path | None,
    precision: str | None,
) -> Iterator[Result]:
    """Yield the result of each task; the model is let go at the end, ahead of the next one."""
    with _within_memory(f"loading {named.name}"):
        model = load(named, precision)
    for task in tasks:
        note(_announcement(task, model, options))
        with _within_memory(f"{task} with micro-batches of {model.micro_tokens} tokens"):
            outcome = _run(task, named, model, options, data)
        asked, used = options_of(task, options), model.context.precision
        result = Result(named.label, model.step, used, asked, outcome, model.weights)
        results.add(Disk(), named.results, result)
        yield result


@contextmanager
def _within_memory(what: str) -> Iterator[None]:
    """Raise MemoryLimitError where there is too little memory for `what`."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rule = "a machine with more memory is needed"
        raise MemoryLimitError(f"out of memory: {what}; {rule}") from None


def _announcement(task: str, model: EvalModel, options: EvalOptions) -> str:
    parameters = sum(weights.numel() for weights in model.gpt.parameters())
    items = f"at most {counted(options.limit, 'item')}" if options.limit else "all items"
    files = FILES[task].require(options.sets)[1] if task in FILES else ()
    size = f" of {sum(file.stat().st_size for file in files) / 1e6:,.1f} MB" if files else ""
    return f"{model.name} ({parameters:,} parameters): {task}, {items}{size}"


def _run(
    task: str, named: NamedModel, model: EvalModel, options: EvalOptions, data: Path | None
) -> Outcome:
    if task == VALID:
        store = named.store(data)
        require_same_tokenizer(store, model)
        return valid(model, store, options)
    return TASKS.get(task, partial(lm_eval_adapter.run_task, task))(model, options)


def options_of(task: str, options: EvalOptions) -> dict[str, int]:
    """Return the options that decide what a task asks, without those that it does not read."""
    read = {"limit": options.limit}
    if task == WIKITEXT.name:
        read["stride"] = options.stride
    elif task != VALID and options.shots:
        read |= {"shots": options.shots, "seed": options.seed}
    return {name: value for name, value in read.items() if value is not None}

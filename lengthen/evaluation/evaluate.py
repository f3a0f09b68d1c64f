"""Models and tasks side by side: what is asked, in which order, and what is kept of it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lengthen.distributed.memory import is_out_of_memory
from lengthen.evaluation import lm_eval_tasks as harness
from lengthen.evaluation import positions, results
from lengthen.evaluation.models import Loaded, Named, load, must_share_tokenizer, store_of
from lengthen.evaluation.options import Wanted
from lengthen.evaluation.outcome import Outcome
from lengthen.evaluation.results import Result
from lengthen.evaluation.tasks import TASKS, WIKITEXT, found, raise_missing
from lengthen.util.disk import Disk
from lengthen.util.errors import MemoryLimitError, SettingError, nearest

ALL = "all"
VALID = "valid"
HARNESS = "lm-eval:"

Note = Callable[[str], None]


def chosen(words: str, models: Sequence[Named], data: Path | None, wanted: Wanted) -> list[str]:
    """Return the names of the tasks in a text such as "valid,lambada", each once.

    "all" is every task of ours whose set is found, `valid` where each model has a store. Raises
    SettingError for a name that is none and for a set that is not there, DataError for a store that
    cannot be used: all of it before any work.
    """
    names = list(dict.fromkeys(filter(None, (word.strip() for word in words.split(",")))))
    if not names:
        raise SettingError("--tasks", "names none", words, nearest("", [VALID, *TASKS, ALL]))
    for name in names:
        if name not in (VALID, ALL, *TASKS) and not name.startswith(HARNESS):
            hint = nearest(name, [VALID, *TASKS, ALL, f"{HARNESS}NAME"])
            raise SettingError("--tasks", "no such task", name, hint)
    if ALL in names:
        names = list(dict.fromkeys([*_possible(models, data, wanted), *names]))
        names.remove(ALL)
    _must_be_there(names, models, data, wanted)
    return names


def _possible(models: Sequence[Named], data: Path | None, wanted: Wanted) -> list[str]:
    possible = found(wanted.sets)
    if data or all(model.config and model.config.data.path for model in models):
        possible = [VALID, *possible]
    if not possible:
        raise SettingError("--tasks", "no set is found, and no store", ALL, "name them by --sets")
    return possible


def _must_be_there(
    names: Sequence[str], models: Sequence[Named], data: Path | None, wanted: Wanted
) -> None:
    """Raise what a set or a store that is missing raises, before any model is loaded."""
    with_set = [name for name in names if name in TASKS]
    if wanted.sets and wanted.sets.is_file() and len(with_set) > 1:
        rule = f"must be a folder, since {len(with_set)} tasks have a set"
        raise SettingError("--sets", rule, str(wanted.sets))
    there = found(wanted.sets)
    for name in with_set:
        if name not in there:
            raise_missing(name, wanted.sets)
    if VALID in names:
        for model in models:
            store_of(model, data)


def judge(
    models: Sequence[Named],
    tasks: Sequence[str],
    wanted: Wanted,
    *,
    data: Path | None,
    precision: str | None,
    note: Note,
    disk: Disk | None = None,
) -> Iterator[tuple[Named, Result]]:
    """Yield what each task says about each model, once it is in the model's file.

    Raises what the tasks and `models.load` raise, and MemoryLimitError; what was yielded is kept.
    """
    for path in {model.results for model in models}:
        results.read(path)  # a file that is not ours would cost the first task otherwise
    for model in models:
        loaded = load(model, precision)
        for text in loaded.notes:
            note(text)
        for task in tasks:
            outcome = _outcome(task, model, loaded, wanted, data)
            place = loaded.subject.place
            of = (model.label, loaded.step, place.precision, options_of(task, wanted))
            result = Result(*of, outcome, loaded.weights)
            results.kept(disk or Disk(), model.results, result)
            yield model, result


def _outcome(task: str, model: Named, loaded: Loaded, wanted: Wanted, data: Path | None) -> Outcome:
    subject = loaded.subject
    try:
        if task == VALID:
            store = store_of(model, data)
            must_share_tokenizer(store, subject)
            return positions.valid(subject, store, wanted)
        if task.startswith(HARNESS):
            name = task.removeprefix(HARNESS)
            own = wanted.sets if wanted.sets and wanted.sets.is_dir() else None
            return harness.run(subject, [name], own, wanted.shots, wanted.limit)[0]
        return TASKS[task](subject, wanted)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        message = f"out of memory: {task} with passes of {subject.pass_tokens} tokens"
        raise MemoryLimitError(f"{message}; a machine with more memory is needed") from None


def options_of(task: str, wanted: Wanted) -> dict[str, int]:
    """Return the options that decide what a task asks, without those that it does not read."""
    options = {"limit": wanted.limit}
    if task == WIKITEXT:
        options["stride"] = wanted.stride
    elif task != VALID and wanted.shots:
        options |= {"shots": wanted.shots, "seed": wanted.seed}
    return {name: value for name, value in options.items() if value is not None}

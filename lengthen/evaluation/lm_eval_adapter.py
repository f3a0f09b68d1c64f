"""Zero- and few-shot tasks, through lm-eval: our packed scoring as its model class.

A task in `LM_EVAL_TASKS` is lm-eval's own definition, pointed at a local file. For all others
lm-eval fetches the data itself.
"""

import hashlib
import importlib
import json
import logging
import os
import time
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from lengthen.distributed.memory import is_out_of_memory
from lengthen.evaluation.generate import generate
from lengthen.evaluation.models import EvalModel, EvalOptions
from lengthen.evaluation.packing import Request
from lengthen.evaluation.results import Measure, Outcome
from lengthen.evaluation.scoring import JOINED, requests_of, score, windows
from lengthen.evaluation.task_files import FORMATS, LM_EVAL_TASKS
from lengthen.util.errors import DataError, LengthenError, SettingError, closest, one_line

PREFIX = "lm-eval:"  # of the tasks whose data lm-eval fetches itself
BOOTSTRAPS = 1000  # resamples for the errors that lm-eval has no formula for
NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
NEW_TOKENS_DEFAULT = 256  # as lm-eval's own models
# What it says where there are fewer items than shots: by chance, or the first ones.
TOO_FEW = ("Sample larger than population", "number of fewshot samples")
CHOSEN = ("acc", "acc_norm")  # the measures that guessing gives 1 / choices


class LMEvalAdapter:
    """The methods of lm-eval's `LM`; `model_class` joins it with `LM` in one class."""

    def __init__(self, model: EvalModel) -> None:
        super().__init__()
        self.model = model
        self.tokens = 0  # scored so far
        self.hash = hashlib.sha256()  # of all requests so far, with the items that they are of
        self.choices: Counter[tuple[str, int]] = Counter()  # of each item, by task and number
        self.cut = self.skipped = 0  # contexts without their left end, answers that do not fit
        self.joined = 0  # answers that are not scored by their own tokens

    def loglikelihood(self, requests: Sequence[Any], **_: object) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the likeliest.

        One that exceeds the full length cannot be read: it has probability 0.
        """
        self._record(requests)
        pairs = [request.args for request in requests]
        return self._score(requests_of(self.model.text, pairs))

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: object) -> list[float]:
        """Return the log-likelihood of each text, in windows of the full length."""
        self._record(requests)
        texts = [request.args[0] for request in requests]
        encodings = self.model.tokenizer.encode_batch(texts, add_special_tokens=False)
        first, length = self.model.text.separator, self.model.length
        of_texts = [list(windows((first, *each.ids), length, length)) for each in encodings]
        scores = iter(self._score(list(chain.from_iterable(of_texts))))
        return [sum(log_p for log_p, _ in islice(scores, len(each))) for each in of_texts]

    def generate_until(self, requests: Sequence[Any], **_: object) -> list[str]:
        """Return the greedy text after each context, up to one of its stops."""
        self._record(requests)
        by_options: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for number, request in enumerate(requests):
            options = _stops(request.args[1]), self._new_tokens(request.args[1])
            by_options.setdefault(options, []).append(number)
        texts = [""] * len(requests)
        for (stops, limit), numbers in by_options.items():
            contexts = [requests[number].args[0] for number in numbers]
            encodings = self.model.tokenizer.encode_batch(contexts, add_special_tokens=False)
            prompts = [tuple(each.ids) or (self.model.text.separator,) for each in encodings]
            self.cut += sum(len(prompt) + limit > self.model.length for prompt in prompts)
            new = generate(self.model, prompts, stops=stops, limit=limit, label="lm-eval")
            for number, text in zip(numbers, new, strict=True):
                texts[number] = text
        return texts

    def notes(self) -> Iterator[str]:
        """Yield what a reader must know about items that did not fit."""
        length = self.model.length
        if self.skipped:
            why = f"answers that exceed the full length ({length}), given probability 0"
            yield f"{why}: {self.skipped}"
        if self.cut:
            yield f"contexts that lost their left end, since they exceed it ({length}): {self.cut}"
        if self.joined:
            yield f"{JOINED}: {self.joined}"

    def chance(self, task: str) -> float | None:
        """Return the accuracy of guessing; None for a task that offers no choices."""
        counts = [count for (name, _), count in self.choices.items() if name == task]
        return fmean(1 / count for count in counts) if counts and min(counts) > 1 else None

    def _record(self, requests: Sequence[Any]) -> None:
        for request in requests:
            item = repr((request.doc, request.args))
            self.hash.update(item.encode("utf-8", "surrogatepass"))
            # Without a context it is no choice, but what a choice is measured against.
            if request.request_type == "loglikelihood" and request.args[0]:
                self.choices[request.task_name, request.doc_id] += 1

    def _score(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        length = self.model.length
        fit = [request for request in requests if request.fits(length)]
        scores = score(self.model, fit, "lm-eval")
        self.tokens += sum(each.tokens for each in scores)
        self.cut += sum(request.is_truncated(length) for request in fit)
        self.joined += sum(request.is_joined for request in fit)
        self.skipped += len(requests) - len(fit)
        left = iter(scores)
        pairs = (next(left) if request.fits(length) else None for request in requests)
        return [(-each.loss, each.greedy) if each else (-float("inf"), False) for each in pairs]

    def _new_tokens(self, options: dict[str, Any]) -> int:
        length = self.model.length
        if options.get("do_sample"):
            raise DataError("lm-eval: the task draws its answers; lengthen gives the likeliest")
        given = [int(options[name]) for name in NEW_TOKENS if options.get(name) is not None]
        limit = given[0] if given else min(NEW_TOKENS_DEFAULT, length // 2)
        if limit >= length:
            rule = f"the task wants {limit} new tokens, which must be below the full length"
            raise DataError(f"lm-eval: {rule} ({length})")
        return limit


def _stops(options: dict[str, Any]) -> tuple[str, ...]:
    until = options.get("until") or ()
    # An empty stop would end every answer before it begins.
    return tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)


def model_class() -> Any:
    """Return the adapter as a class of lm-eval; raises SettingError without lm-eval."""
    # Made when needed: lm-eval is an extra, and takes a second to import.
    return types.new_class("LengthenModel", (LMEvalAdapter, _library("lm_eval.api.model").LM))


def run_task(name: str, model: EvalModel, options: EvalOptions) -> Outcome:
    """Return the outcome of a task of `LM_EVAL_TASKS`, or of one of lm-eval's after `PREFIX`.

    Raises SettingError where lm-eval or the task's file is missing or lm-eval knows no such task,
    DataError where the task fails.
    """
    began = time.monotonic()
    adapter = model_class()(model)
    task = name.removeprefix(PREFIX)
    with TemporaryDirectory() as folder:
        is_local = name in LM_EVAL_TASKS
        file = write_definition(name, options.sets, Path(folder)) if is_local else None
        manager = _manager(task, Path(folder) if is_local else options.sets)
        results = _evaluate(adapter, manager, task, options, file)
    if adapter.skipped and not adapter.tokens:
        rule = f"no answer fits into the model's full length ({model.length} tokens)"
        raise DataError(f"{name}: {rule}")
    return Outcome(
        task=name,
        items=sum(count["effective"] for count in results["n-samples"].values()),
        tokens=adapter.tokens,
        seconds=time.monotonic() - began,
        measures=tuple(_measures(results["results"], adapter)),
        settings=(
            *([("set", str(file))] if file else []),
            ("lm-eval", metadata.version("lm_eval")),
            ("shots", str(results["n-shot"].get(task, options.shots))),
            ("requests SHA-256", adapter.hash.hexdigest()),
        ),
        notes=tuple(adapter.notes()),
    )


def write_definition(name: str, sets: Path | None, folder: Path) -> Path:
    """Write lm-eval's definition of a task, pointed at local files; return the first of them."""
    task = LM_EVAL_TASKS[name]
    part, files = task.require(sets)
    train = task.find_train(sets)
    _library("datasets").disable_progress_bars()  # a local file is read at once
    parts = {part: files, **({task.train: train} if train else {})}
    # Where lm-eval has to draw shots from the part that is scored, it leaves an item out of its own
    # shots in a validation part alone.
    is_test = bool(train) and part.startswith("test")
    definition = {
        "include": str(Path(_library("lm_eval.tasks").__file__).parent / task.definition),
        "task": name,
        "dataset_path": FORMATS.get(files[0].suffix, "json"),
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {
                part: [str(f.resolve()) for f in files] for part, files in parts.items()
            },
            "cache_dir": str(folder / "cache"),
        },
        "training_split": task.train if train else None,
        "validation_split": None if is_test else part,
        "test_split": part if is_test else None,
        **dict(task.changes),
    }
    (folder / f"{name}.yaml").write_text(json.dumps(definition), encoding="utf-8")
    return files[0]


def _manager(name: str, sets: Path | None) -> Any:
    """Return lm-eval's index of tasks, its own only where `sets` does not define the task."""
    library = _library("lm_eval.tasks")
    folder = str(sets) if sets and sets.is_dir() else None
    manager = library.TaskManager(include_path=folder, include_defaults=False)
    if name not in manager.all_tasks:
        manager = library.TaskManager(include_path=folder)  # takes ten seconds
    if name not in manager.all_tasks:
        hint = closest(name, manager.all_tasks) or "`lm_eval ls tasks` lists them"
        raise SettingError("--tasks", "lm-eval has no such task", name, hint)
    return manager


def _evaluate(
    adapter: Any, manager: Any, task: str, options: EvalOptions, file: Path | None
) -> dict[str, Any]:
    try:
        results: dict[str, Any] = _library("lm_eval").simple_evaluate(
            model=adapter,
            tasks=[task],
            num_fewshot=options.shots or None,  # None: as many as the task itself says
            limit=options.limit,
            bootstrap_iters=BOOTSTRAPS,
            log_samples=False,
            task_manager=manager,
            fewshot_random_seed=options.seed,
            # None: the state of random numbers is the caller's.
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    except LengthenError:
        raise
    except Exception as error:  # it and the libraries below it raise all kinds
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        cause = one_line(error.__cause__ or error)
        if options.shots and any(words in cause for words in TOO_FEW):
            rule = f"are more than {task} has items to draw them from"
            raise SettingError("--shots", rule, options.shots) from None
        cause = f"lm-eval's task {task} failed ({cause})"
        if file is None:
            raise DataError(cause) from None
        rule = f"its rows must have the fields of {LM_EVAL_TASKS[task].source} on the hub"
        raise DataError(f"set {file}: {cause}; {rule}") from None
    return results


def _measures(results: dict[str, dict[str, Any]], adapter: Any) -> Iterator[Measure]:
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
                adapter.chance(task) if metric in CHOSEN else None,
            )


def _library(name: str) -> Any:
    # In this process: its own pool would copy a process that has threads. And no request to the
    # hub that only counts how often a format is read.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    # What goes wrong is one line of ours.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    try:
        return importlib.import_module(name)
    except ImportError:
        rule = "tasks of lm-eval need the package lm_eval"
        raise SettingError("--tasks", rule, hint="pip install lm-eval") from None

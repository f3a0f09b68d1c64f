"""lm-eval's own tasks, read from the files of the installed sets instead of the network."""

import importlib
from pathlib import Path
from typing import Any

from lengthen.evaluation import sets
from lengthen.evaluation.tasks import PLACES

FILES = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "cb": "super_glue/cb/default.yaml",
    "copa": "super_glue/copa/default.yaml",
    "rte": "glue/rte/default.yaml",
    "sst2": "glue/sst2/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "sciq": "sciq/sciq.yaml",
    "social_iqa": "siqa/siqa.yaml",
    "commonsense_qa": "commonsense_qa/default.yaml",
    "triviaqa": "triviaqa/default.yaml",
    "lambada": "lambada/lambada_openai.yaml",
}
# The set as it was published first has another field than SuperGLUE's copy.
EXTRA = {"boolq": 'doc_to_target: "{{answer|int}}"\n', "cb": "metric_list: [{metric: acc}]\n"}


def write_tasks(folder: Path, names: list[str], files: dict[str, Path] | None = None) -> Path:
    """Write a task `local_NAME` for each name, over the file that we would read ourselves."""
    tasks = Path(importlib.import_module("lm_eval").__file__ or "").parent / "tasks"
    for name in names:
        file = (files or {}).get(name) or sets.load(PLACES[name], None).files[0]
        kind, part = ("json", "test") if "json" in file.name else ("arrow", "validation")
        options = f"{{data_files: {{{part}: {file}}}, cache_dir: {folder / 'cache'}}}"
        lines = [
            f"include: {tasks / FILES[name]}",
            f"task: local_{name}",
            f"dataset_path: {kind}",
            "dataset_name: null",
            f"dataset_kwargs: {options}",
            "training_split: null",
            f"validation_split: {'validation' if part == 'validation' else 'null'}",
            f"test_split: {'test' if part == 'test' else 'null'}",
        ]
        text = "\n".join(lines) + "\n" + EXTRA.get(name, "")
        (folder / f"local_{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def evaluate(model: Any, folder: Path, name: str, limit: int, shots: int | None = None) -> Any:
    """Return what lm-eval says about a task of `write_tasks`, item by item."""
    lm_eval, tasks = importlib.import_module("lm_eval"), importlib.import_module("lm_eval.tasks")
    return lm_eval.simple_evaluate(
        model=model,
        tasks=[f"local_{name}"],
        num_fewshot=shots,
        limit=limit,
        bootstrap_iters=0,
        task_manager=tasks.TaskManager(include_path=str(folder), include_defaults=False),
    )

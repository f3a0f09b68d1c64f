"""Tokens per second of the evaluation, against lm-eval's own model for Transformers.

    python -m benchmarks.harness                          LAMBADA and HellaSwag
    python -m benchmarks.harness --items 50 --rounds 1    a quick look

A random GPT-2 of 5 million parameters with GPT-2's tokenizer, exported once; both read the same
folder, in float32 on the same threads, and get the same texts. Tokenizing counts for both, loading
for neither. lm-eval runs at the fastest of its batch sizes that one trial of each finds. The tokens
are those of the texts, so that nothing which only one of the two reads is counted.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.measure import ROUNDS, figure, ratio, report, seconds_in_rounds
from lengthen.checkpoint.write import write_checkpoint
from lengthen.config.load import build
from lengthen.config.model import Model
from lengthen.data.tokenizer import resolve
from lengthen.distributed.context import DistributedContext
from lengthen.evaluation.lambada import divide, read_passages
from lengthen.evaluation.lm_eval_adapter import model_class, write_definition
from lengthen.evaluation.models import MICRO_TOKENS, EvalModel
from lengthen.evaluation.scoring import requests_of
from lengthen.evaluation.task_files import LAMBADA
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read
from lengthen.model.gpt import GPT
from lengthen.run.directory import RunPaths
from lengthen.util.disk import Disk

SHAPE: dict[str, Any] = {"layers": 12, "width": 80, "heads": 5, "length": 1024, "vocabulary": 50257}
BATCHES = (1, 8, 32, 64)
ITEMS = {"lambada": 500, "hellaswag": 250}
BAR = 3.0  # times lm-eval's speed
GPT2 = Path(__file__).parents[1] / "../shared/data/gpt2-bpe"

Run = Callable[[], object]


def exported(folder: Path) -> Path:
    """Return a Transformers folder of the model."""
    tables = {
        "model": SHAPE,
        "pacing": {"kind": "constant"},
        "batch": {"rows": 1},
        "optimizer": {"learning_rate": 1e-3},
        "budget": {"tokens": "1M"},
    }
    model = GPT(Model(**SHAPE))
    model.initialise(torch.Generator().manual_seed(0))
    paths = RunPaths(folder / "run")
    groups = {"model": model.state_dict(), "optimizer": {}}
    state = {"counters": {"step": 1, "tokens": 1}}
    paths.root.mkdir()
    write_checkpoint(Disk(), paths.checkpoints, 1, groups, state)
    paths.config.write_text(build(tables).to_toml(), encoding="utf-8")
    tokenizer = resolve(f"gpt2:{GPT2}" if GPT2.exists() else "gpt2")
    paths.tokenizer.write_text(tokenizer.tokenizer.to_str(), encoding="utf-8")
    export(folder / "run", folder / "hf")
    return folder / "hf"


def instances_of(name: str, items: int, folder: Path) -> list[Any]:
    """Return what lm-eval asks a model about the first items of a set."""
    if name == "lambada":
        _, files = LAMBADA.require(None)
        texts, _ = read_passages(files)
        pairs = [(before, f" {word}") for before, word in map(divide, texts[:items])]
        return [
            SimpleNamespace(
                args=pair, doc=None, request_type="loglikelihood", task_name="", doc_id=n
            )
            for n, pair in enumerate(pairs)
        ]
    folder.mkdir()
    write_definition(name, None, folder)
    library: Any = import_module("lm_eval.tasks")
    manager = library.TaskManager(include_path=str(folder), include_defaults=False)
    task = manager.load([name])["tasks"][name]
    task.build_all_requests(limit=items, rank=0, world_size=1)
    return list(task.instances)


def ours(folder: Path, instances: Sequence[Any]) -> Run:
    """Return what scores the instances."""
    pretrained = read(folder)
    context = DistributedContext(torch.device("cpu"))
    model = EvalModel("model", pretrained.gpt(), pretrained.text, context, MICRO_TOKENS)
    return partial(model_class()(model).loglikelihood, instances)


def theirs(folder: Path, instances: Sequence[Any], batch: int) -> Run:
    """Return what does so in lm-eval."""
    library: Any = import_module("lm_eval.models.huggingface")
    model = library.HFLM(str(folder), dtype="float32", batch_size=batch, device="cpu")
    return partial(model.loglikelihood, instances, disable_tqdm=True)


def fastest(folder: Path, instances: Sequence[Any]) -> Run:
    """Return lm-eval at the batch size at which one run, after one to warm up, is the quickest."""
    runs = {str(batch): theirs(folder, instances, batch) for batch in BATCHES}
    taken = {batch: min(each) for batch, each in seconds_in_rounds(runs, rounds=1).items()}
    best = min(taken, key=lambda batch: taken[batch])
    print("  lm-eval's seconds by batch size:", {k: round(v, 2) for k, v in taken.items()})
    return runs[best]


def compare(folder: Path, name: str, items: int, rounds: int) -> None:
    """Print the ratio on one set."""
    instances = instances_of(name, items, folder.parent / name)
    requests = requests_of(read(folder).text, [each.args for each in instances])
    tokens = sum(len(each.context) + len(each.continuation) - 1 for each in requests)
    print(f"{name}: {items} items, {len(instances)} continuations, {tokens} tokens")
    runs = {"ours": ours(folder, instances), "lm-eval": fastest(folder, instances)}
    seconds = seconds_in_rounds(runs, rounds)
    for who, taken in seconds.items():
        print(f"  {who:8} {figure([tokens / each for each in taken])} tokens/s")
    found = ratio(seconds["lm-eval"], seconds["ours"])
    print(f"  ours / lm-eval: {found}, bar {BAR}")
    report(f"EVAL_{name.upper()}_VS_LM_EVAL", found)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="The evaluation against lm-eval's.")
    parser.add_argument("--items", type=int, help="of each set")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    parameters = sum(each.numel() for each in GPT(Model(**SHAPE)).parameters())
    print(f"{parameters:,} parameters, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        model = exported(Path(folder))
        for name, items in ITEMS.items():
            compare(model, name, options.items or items, options.rounds)


if __name__ == "__main__":
    main()

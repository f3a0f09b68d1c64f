"""The models under evaluation: runs, checkpoints of runs, Transformers folders."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from lengthen.checkpoint.read import Tensors
from lengthen.checkpoint.read import load as load_checkpoint
from lengthen.config import load as settings
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store
from lengthen.data.store import Store
from lengthen.data.tokenizer import tokenizer_difference
from lengthen.data.tokenizer_files import TextTokenizer
from lengthen.distributed.context import DTYPES, DistributedContext
from lengthen.distributed.device import device_of
from lengthen.evaluation.results import weights_at
from lengthen.exchange.pretrained import CONFIG, find_run, read_folder, read_run
from lengthen.model.gpt import GPT
from lengthen.run.directory import RunPaths
from lengthen.util.console import say
from lengthen.util.errors import DataError, SettingError

MICRO_TOKENS = 8192


@dataclass(frozen=True)
class EvalOptions:
    """The options of an evaluation; raises SettingError for a number that means nothing."""

    sets: Path | None = None  # a folder with the tasks' files, or one file; None: as installed
    shots: int = 0  # solved examples before each question
    limit: int | None = None  # items, the first ones; None: all
    stride: int | None = None  # tokens that a sliding window scores; None: the full length
    seed: int = 0  # of the choice of shots
    windows: tuple[int, ...] = ()  # shorter lengths that `valid` reads; (): shares of the full one

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise SettingError("--shots", "must be at least 0", self.shots)
        of_windows = [("--windows", size) for size in self.windows]
        for name, value in (("--limit", self.limit), ("--stride", self.stride), *of_windows):
            if value is not None and value < 1:
                raise SettingError(name, "must be at least 1", value)


@dataclass(frozen=True)
class EvalModel:
    """A trained model on its device, and the tokenizer that it knows."""

    name: str
    gpt: GPT  # dropout off, on `context.device`, without a padded vocabulary
    text: TextTokenizer
    context: DistributedContext
    micro_tokens: int  # about how many tokens go through the model at once
    step: int | None = None  # of its checkpoint; None for a Transformers folder
    masked: bool = False  # trained with data.documents = "mask"
    weights: str | None = None  # SHA-256: of a checkpoint's files, of names and numbers (digest)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without its separator."""
        return self.text.tokenizer

    @property
    def length(self) -> int:
        """The full length."""
        return self.gpt.length

    @property
    def vocabulary(self) -> int:
        """The number of tokens that the model tells apart."""
        return self.gpt.tokens.num_embeddings


@dataclass(frozen=True)
class NamedModel:
    """A model that was named, before it is loaded."""

    name: str  # unique among those named with it
    path: Path
    run: RunPaths | None  # None: a Transformers folder
    checkpoint: str | None  # of the run; None: the newest good one
    results: Path  # the file that keeps its results
    label: str | None  # its name in that file; None where the file lies beside it

    @property
    def config(self) -> Config | None:
        """The run's configuration; None for a Transformers folder."""
        return settings.load_run(self.run.config) if self.run else None

    def store(self, data: Path | None) -> Store:
        """Return the store of the validation part: `data`, or else the run's own.

        Raises SettingError where there is none, DataError where it cannot be used or is another
        one than the run was trained on.
        """
        if data is not None:
            return Store.open(data)
        config = self.config
        if config is None or config.data.path is None:
            rule = f"must name the token store that `valid` needs, since {self.name} names none"
            raise SettingError("--data", rule)
        return open_store(config, "--data")


def find_models(paths: Sequence[Path], out: Path | None) -> list[NamedModel]:
    """Return what the paths name; nothing is loaded.

    Results go into the file `out`, or else beside each model. Raises SettingError for a path that
    is no model, and where nothing can be written.
    """
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise SettingError("--out", "must be a file in a directory that exists", str(out))
    models = []
    for path in paths:
        whole = Path(os.path.abspath(path))  # a link keeps its own name
        run, step = find_run(whole)
        if run is None and not (whole / CONFIG).is_file():
            rule = "must be a run, a checkpoint of one, or a Transformers folder"
            raise SettingError("RUN", rule, str(path))
        name = f"{whole.parts[-3]}/{step}" if step else whole.name
        results = out or _results_beside(whole, run)
        models.append(NamedModel(name, whole, run, step, results, None))
    names = [model.name for model in models]
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):
        own = name if names.count(name) == 1 else str(path)
        models[number] = replace(models[number], name=own, label=own if out else None)
    return models


def _results_beside(path: Path, run: RunPaths | None) -> Path:
    """Return the file for results: in a run, but beside a folder, which stays as it is."""
    file = run.evaluations if run else path.with_name(f"{path.name}.evaluations.json")
    is_cached = run is None and any(part.startswith("models--") for part in path.parts)
    if is_cached or not os.access(file.parent, os.W_OK):
        why = "in a hub's cache" if is_cached else "where nothing can be written"
        rule = f"must name a file for the results, since the model is {why}"
        raise SettingError("--out", rule, None, str(path))
    return file


def load(model: NamedModel, precision: str | None) -> EvalModel:
    """Return the model on its device: a GPU if there is one; print which checkpoints are damaged.

    Float64 weights stay so where no precision is named; all others are float32. Raises what
    `checkpoint.read.load`, `read_run` and `read_folder` raise.
    """
    config, run = model.config, model.run
    masked = config is not None and config.data.documents == "mask"
    if run is None or config is None:
        pretrained = read_folder(model.path)
        weights: str | None = digest(pretrained.weights)
    else:
        saved, notes = load_checkpoint(run.checkpoints, model.checkpoint)
        say(notes)
        pretrained, weights = read_run(run, config, saved), weights_at(saved.path)
    is_double = pretrained.weights["tokens.weight"].dtype == torch.float64
    precision = precision or ("fp64" if is_double else "fp32")
    context = DistributedContext(device_of("auto"), precision)
    gpt = pretrained.gpt().to(context.device, DTYPES[precision])
    return EvalModel(
        model.name, gpt, pretrained.text, context, MICRO_TOKENS, pretrained.step, masked, weights
    )


def digest(weights: Tensors) -> str:
    """Return the SHA-256 of tensors on the CPU, sorted by name, each after its name."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(name.encode())
        sha.update(weights[name].numpy().data.cast("B"))
    return sha.hexdigest()


def require_same_tokenizer(store: Store, model: EvalModel) -> None:
    """Raise DataError for a store whose tokens are not the model's."""
    if part := tokenizer_difference(store.tokenizer(), model.tokenizer):
        rule = f"its tokenizer is not that of {model.name} ({part} differ)"
        raise DataError(f"store {store.path}: {rule}; name one that was prepared with it by --data")

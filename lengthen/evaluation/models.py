"""The models that a command names: runs, checkpoints of runs, Transformers folders."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.read import Tensors
from lengthen.checkpoint.verify import NAME
from lengthen.config import load as settings
from lengthen.config.schema import Config
from lengthen.data import open_store as bind
from lengthen.data.alike import difference
from lengthen.data.store import Store
from lengthen.distributed.context import DTYPES, DistributedContext
from lengthen.distributed.device import device_of
from lengthen.evaluation.model import Subject
from lengthen.evaluation.results import weights_at
from lengthen.exchange.pretrained import CONFIG, Pretrained, of_run, read_folder
from lengthen.run.directory import RunPaths
from lengthen.util.errors import DataError, SettingError

PASS_TOKENS = 8192


@dataclass(frozen=True)
class Named:
    """A model that was named, before it is loaded."""

    name: str  # unique among those named with it
    path: Path
    run: RunPaths | None  # None: a Transformers folder
    checkpoint: str | None  # of the run; None: the newest good one
    results: Path  # the file that keeps what is found
    label: str | None  # its name in that file; None where the file lies beside it

    @property
    def config(self) -> Config | None:
        """The run's configuration; None for a Transformers folder."""
        return settings.load(str(self.run.config))[0] if self.run else None


@dataclass(frozen=True)
class Loaded:
    """A model that can be judged."""

    subject: Subject
    step: int | None  # of its checkpoint; None for a Transformers folder
    weights: str | None  # SHA-256: of a folder, of names and numbers (digest)
    notes: tuple[str, ...]  # of damaged checkpoints that were passed over


def named(paths: Sequence[Path], out: Path | None) -> list[Named]:
    """Return what the paths name; nothing is loaded.

    What is found goes into the file `out`, or else beside each model. Raises SettingError for a
    path that is no model, and where nothing can be written.
    """
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise SettingError("--out", "must be a file in a directory that exists", str(out))
    wholes = [Path(os.path.abspath(path)) for path in paths]  # a link keeps its own name
    names = [_name(whole) for whole in wholes]
    found = []
    for path, whole, name in zip(paths, wholes, names, strict=True):
        run, step = _run_of(whole)
        if run is None and not (whole / CONFIG).is_file():
            rule = "must be a run, a checkpoint of one, or a Transformers folder"
            raise SettingError("RUN", rule, str(path))
        unique = name if names.count(name) == 1 else str(path)
        results = out or _beside(whole, run)
        found.append(Named(unique, whole, run, step, results, unique if out else None))
    return found


def _name(path: Path) -> str:
    return f"{path.parts[-3]}/{path.name}" if _run_of(path)[1] else path.name


def _run_of(path: Path) -> tuple[RunPaths | None, str | None]:
    """Return the run, and the name of the checkpoint where the path is one."""
    if RunPaths(path).config.is_file():
        return RunPaths(path), None
    if NAME.fullmatch(path.name) and len(path.parts) > 3:
        run = RunPaths(path.parents[1])
        if run.config.is_file() and path.parent == run.checkpoints:
            return run, path.name
    return None, None


def _beside(path: Path, run: RunPaths | None) -> Path:
    """Return the file for what is found: in a run, but beside a folder, which stays as it is."""
    file = run.evaluations if run else path.with_name(f"{path.name}.evaluations.json")
    is_cached = run is None and any(part.startswith("models--") for part in path.parts)
    if is_cached or not os.access(file.parent, os.W_OK):
        why = "in a hub's cache" if is_cached else "where nothing can be written"
        rule = f"must name a file for the results, since the model is {why}"
        raise SettingError("--out", rule, None, str(path))
    return file


def load(model: Named, precision: str | None) -> Loaded:
    """Return the model where it runs: on a GPU if there is one.

    Float64 weights stay so where no precision is named; all others are float32. Raises what
    `checkpoint.load_newest`, `checkpoint.load_step`, `of_run` and `read_folder` raise.
    """
    pretrained, step, weights, notes = _read(model)
    is_double = pretrained.weights["tokens.weight"].dtype == torch.float64
    precision = precision or ("fp64" if is_double else "fp32")
    place = DistributedContext(device_of("auto"), precision)
    gpt = pretrained.gpt().to(place.device, DTYPES[precision])
    subject = Subject(model.name, gpt, pretrained.text, place, PASS_TOKENS)
    return Loaded(subject, step, weights, tuple(notes))


def _read(model: Named) -> tuple[Pretrained, int | None, str | None, list[str]]:
    config, run = model.config, model.run
    if run is None or config is None:
        pretrained = read_folder(model.path)
        return pretrained, None, digest(pretrained.weights), []
    notes: list[str] = []
    if model.checkpoint:
        saved = checkpoint.load_step(run.checkpoints, model.checkpoint)
    else:
        saved, notes = checkpoint.load_newest(run.checkpoints)
    return of_run(run, config, saved), saved.step, weights_at(saved.path), notes


def digest(weights: Tensors) -> str:
    """Return the SHA-256 of tensors on the CPU: in the order of names, each behind its name."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].numpy().data.cast("B"))
    return found.hexdigest()


def store_of(model: Named, data: Path | None) -> Store:
    """Return the store whose validation part a model is judged on: `data`, or else the run's own.

    Raises SettingError where there is none, DataError where it cannot be used or is another one
    than the run was trained on.
    """
    if data is not None:
        return Store.open(data)
    config = model.config
    if config is None or config.data.path is None:
        rule = f"must name the token store that `valid` needs, since {model.name} names none"
        raise SettingError("--data", rule)
    return bind.open_store(config)


def must_share_tokenizer(store: Store, subject: Subject) -> None:
    """Raise DataError for a store whose tokens are not the model's."""
    if part := difference(store.tokenizer(), subject.tokenizer):
        rule = f"its tokenizer is not that of {subject.name} ({part} differ)"
        raise DataError(f"store {store.path}: {rule}; name one that was prepared with it by --data")

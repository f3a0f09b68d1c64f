"""A trained model in memory, from a run's checkpoint or from a Transformers folder."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from lengthen.checkpoint.read import Checkpoint, Tensors
from lengthen.checkpoint.read import load as load_checkpoint
from lengthen.checkpoint.verify import NAME
from lengthen.config import load as settings
from lengthen.config.model import Model
from lengthen.config.schema import Config
from lengthen.data.tokenizer import vocabulary_size
from lengthen.data.tokenizer_files import TextTokenizer, read_tokenizer
from lengthen.exchange.layout import first_difference, parameter_shapes, parse_config, their_names
from lengthen.exchange.tensors import read_weights
from lengthen.model.gpt import GPT
from lengthen.run.directory import RunPaths
from lengthen.util.disk import as_path, read_limited
from lengthen.util.errors import CheckpointError, DataError, SettingError

CONFIG = "config.json"
CONFIG_LIMIT = 2**20  # bytes
PADDING = 1024  # rows; an embedding that was padded for speed has fewer to spare


@dataclass(frozen=True)
class Pretrained:
    """Weights, the shape of the model that they are for, and the tokenizer that they know."""

    shape: Model  # its vocabulary is the tokenizer's
    weights: Tensors  # by our names, contiguous, on the CPU: float32 or float64, finite
    text: TextTokenizer
    dropouts: dict[str, float]  # of a folder, where they differ; `shape` has the first
    step: int | None = None  # of the checkpoint; None: a folder
    config: Config | None = None  # of the run; None: a folder

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without its separator."""
        return self.text.tokenizer

    def gpt(self) -> GPT:
        """Return the model, dropout off; it shares its weights with this value."""
        with torch.device("meta"):  # initial weights would be drawn to be thrown away
            model = GPT(self.shape)
        model.load_state_dict(self.weights, assign=True)
        return model.eval()


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in memory, on the CPU."""

    model: GPT  # dropout off; `logits(tokens)` takes (rows, length) int64
    tokenizer: Tokenizer = field(repr=False)  # of the tokenizers library
    step: int | None  # of the checkpoint; None: a Transformers folder
    config: Config | None = field(repr=False)  # of the run; None: a Transformers folder


def load(run: str | os.PathLike[str], *, checkpoint: str | None = None) -> TrainedModel:
    """Return the model and the tokenizer of a run, a checkpoint or a Transformers folder.

    Of a run it is the newest good checkpoint, or the one called `checkpoint`. Raises SettingError
    for a path that is none of these, CheckpointError, DataError and MemoryLimitError for one that
    cannot be used.

    >>> trained = lengthen.load("runs/first")
    >>> tokens = torch.tensor([trained.tokenizer.encode("The ").ids])
    >>> trained.step, trained.model.logits(tokens).shape
    (15, torch.Size([1, 4, 257]))
    """
    pretrained = read(as_path("run", run), checkpoint)
    return TrainedModel(pretrained.gpt(), pretrained.tokenizer, pretrained.step, pretrained.config)


def read(path: Path, checkpoint: str | None = None) -> Pretrained:
    """Return the model of a run, of a checkpoint of one, or of a Transformers folder.

    Raises SettingError where `path` is none of these, and what `checkpoint.read.load`,
    `read_run` and `read_folder` raise.
    """
    run, name = find_run(path)
    if run is not None:
        config = settings.load_run(run.config)
        return read_run(run, config, load_checkpoint(run.checkpoints, name or checkpoint)[0])
    if not (path / CONFIG).is_file():
        rule = "must be a run, which has a config.toml, a checkpoint of one, or a Transformers"
        raise SettingError("RUN", f"{rule} folder, with {CONFIG}", str(path))
    if checkpoint is not None:
        raise SettingError("checkpoint", "is for a run, not for a Transformers folder", checkpoint)
    return read_folder(path)


def find_run(path: Path) -> tuple[RunPaths | None, str | None]:
    """Return the run at `path`, if there is one, and its checkpoint's name where it is that."""
    if RunPaths(path).config.is_file():
        return RunPaths(path), None
    checkpoints, name = os.path.split(path.absolute())
    run = RunPaths(Path(checkpoints).parent)
    if NAME.fullmatch(name) and Path(checkpoints) == run.checkpoints and run.config.is_file():
        return run, name
    return None, None


def read_run(paths: RunPaths, config: Config, saved: Checkpoint) -> Pretrained:
    """Return the model in a checkpoint of a run.

    Raises SettingError for another architecture, DataError for an unusable tokenizer.
    """
    weights = saved.tensors.get("model", {})
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if problem := first_difference(shapes, parameter_shapes(config.model)):
        raise SettingError("model", f"{saved.path.name} {problem}")
    text = read_tokenizer(paths.tokenizer)
    cut = _without_spare_rows(config.model, weights, text, f"run {paths.root}", str)
    return replace(cut, step=saved.step, config=config)


def read_folder(folder: Path, separator: str | None = None) -> Pretrained:
    """Return the model of a Transformers folder: of those that `ARCHITECTURES` has.

    `separator` is the token between documents, by default the one that the folder names. Links are
    followed: the hub's cache is made of them. Raises CheckpointError for a config.json or weights
    that cannot be used, DataError or SettingError for such a tokenizer, MemoryLimitError.
    """
    place = f"folder {folder}"
    data = read_limited((folder / CONFIG).resolve(), CONFIG_LIMIT)
    architecture, model, dropouts = parse_config(data, f"{place}: {CONFIG}")
    # The whole path, since a message should name it.
    text = read_tokenizer(folder.resolve(), separator)
    weights = read_weights(folder, architecture, model)
    cut = _without_spare_rows(
        model, weights, text, place, lambda ours: " or ".join(their_names(architecture, ours))
    )
    differ = len(set(dropouts.values())) > 1
    return replace(cut, dropouts=dropouts if differ else {})


def _without_spare_rows(
    stored: Model,
    weights: Tensors,
    text: TextTokenizer,
    place: str,
    name_in_place: Callable[[str], str],
) -> Pretrained:
    """Cut the rows of embedding and head that no token has: storage, and no part of a loss.

    `name_in_place` turns our name of a tensor into that of the place. Raises DataError for a
    tokenizer that does not fit, CheckpointError for weights that are not finite.
    """
    rows, known = len(weights["tokens.weight"]), vocabulary_size(text.tokenizer)
    kept = min(rows, known)
    if rows - known >= PADDING or not _has_a_row_for_every_text(text, rows):
        sizes = f"the embedding has {rows} rows, the tokenizer {known} tokens"
        raise DataError(f"{place}: {sizes}; give it the tokenizer that it was trained with")
    tables = weights.keys() & {"tokens.weight", "head.weight"}
    cut = {**weights, **{name: weights[name][:kept] for name in tables}}
    for name, tensor in cut.items():
        if not tensor.isfinite().all():
            rule = f"{name_in_place(name)} holds values that are not finite, NaN or infinite"
            raise CheckpointError(f"{place}: {rule}; take an earlier copy of the model")
    return Pretrained(stored.model_copy(update={"vocabulary": kept}), cut, text, {})


def _has_a_row_for_every_text(text: TextTokenizer, rows: int) -> bool:
    """Return whether no text gives a token without a row: a padding token is often added so."""
    own = text.tokenizer.get_vocab(with_added_tokens=False).values()
    added = text.tokenizer.get_added_tokens_decoder().items()
    ordinary = (number for number, token in added if not token.special)
    return max((text.separator, *own, *ordinary)) < rows

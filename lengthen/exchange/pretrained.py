"""A trained model in memory, from a run's checkpoint or from a Transformers folder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.read import Checkpoint, Tensors
from lengthen.config import load as settings
from lengthen.config.schema import Config, Model
from lengthen.data.tokenizer import vocabulary_size
from lengthen.data.tokenizer_files import TextTokenizer, read_tokenizer
from lengthen.exchange.layout import first_difference, parameter_shapes, parse_config, their_name
from lengthen.exchange.tensors import read_weights
from lengthen.model.gpt import GPT
from lengthen.run.directory import RunPaths
from lengthen.util.disk import read_limited
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

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without its separator."""
        return self.text.tokenizer

    def gpt(self) -> GPT:
        """Return the model, dropout off; it shares its weights with this value."""
        with torch.device("meta"):  # initial weights would be drawn to be thrown away
            model = GPT(**self.shape.model_dump())
        model.load_state_dict(self.weights, assign=True)
        return model.eval()


def read(path: Path) -> Pretrained:
    """Return the newest good checkpoint of a run, or the model of a Transformers folder.

    Raises SettingError where `path` is neither, and what `checkpoint.load_newest`, `of_run` and
    `read_folder` raise.
    """
    paths = RunPaths(path)
    if paths.config.is_file():
        config = settings.load(str(paths.config))[0]
        return of_run(paths, config, checkpoint.load_newest(paths.checkpoints)[0])
    if (path / CONFIG).is_file():
        return read_folder(path)
    rule = f"must be a run, which has a config.toml, or a Transformers folder, with {CONFIG}"
    raise SettingError("RUN", rule, str(path))


def of_run(paths: RunPaths, config: Config, saved: Checkpoint) -> Pretrained:
    """Return the model in a checkpoint of a run.

    Raises SettingError for another architecture, DataError for an unusable tokenizer.
    """
    if config.model.vocabulary is None:
        raise SettingError("model.vocabulary", "is missing; a token store gives it")
    weights = saved.tensors.get("model", {})
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if problem := first_difference(found, parameter_shapes(config.model)):
        raise SettingError("model", f"{saved.path.name} {problem}")
    text = read_tokenizer(paths.tokenizer)
    return _usable(config.model, weights, text, f"run {paths.root}", str)


def read_folder(folder: Path, separator: str | None = None) -> Pretrained:
    """Return the model of a Transformers folder with a GPT-2 in it.

    `separator` is the token between documents, by default the one that the folder names. Links are
    followed: the hub's cache is made of them. Raises CheckpointError for a config.json or weights
    that cannot be used, DataError or SettingError for such a tokenizer, MemoryLimitError.
    """
    place = f"folder {folder}"
    data = read_limited((folder / CONFIG).resolve(), CONFIG_LIMIT)
    config, model = parse_config(data, f"{place}: {CONFIG}")
    # The whole path, since a message should name it.
    found = read_tokenizer(folder.resolve(), separator)
    weights = read_weights(folder, model, tied=config.tie_word_embeddings)
    usable = _usable(model, weights, found, place, their_name)
    differ = len(set(config.dropouts.values())) > 1
    return replace(usable, dropouts=config.dropouts if differ else {})


def _usable(
    stored: Model,
    weights: Tensors,
    found: TextTokenizer,
    place: str,
    called: Callable[[str], str],
) -> Pretrained:
    """Cut the rows of the embedding that no token has: they are storage, and no part of a loss.

    `called` turns our names of tensors into those of the place. Raises DataError for a tokenizer
    that does not fit, CheckpointError for weights that are not finite.
    """
    rows, known = len(weights["tokens.weight"]), vocabulary_size(found.tokenizer)
    kept = min(rows, known)
    if rows - known >= PADDING or not _is_spare(found, rows):
        sizes = f"the embedding has {rows} rows, the tokenizer {known} tokens"
        raise DataError(f"{place}: {sizes}; give it the tokenizer that it was trained with")
    cut = {**weights, "tokens.weight": weights["tokens.weight"][:kept]}
    for name, tensor in cut.items():
        if not tensor.isfinite().all():
            rule = f"{called(name)} holds values that are not finite, NaN or infinite"
            raise CheckpointError(f"{place}: {rule}; take an earlier copy of the model")
    shape = stored.model_copy(update={"vocabulary": kept})
    return Pretrained(shape, cut, found, {})


def _is_spare(found: TextTokenizer, rows: int) -> bool:
    """Say whether no text gives a token without a row: a padding token is often added so."""
    added = found.tokenizer.get_added_tokens_decoder()
    own = found.tokenizer.get_vocab(with_added_tokens=False).values()
    without = [number for number in added if number >= rows]
    return (
        found.separator < rows
        and max(own, default=0) < rows
        and all(added[number].special for number in without)
    )

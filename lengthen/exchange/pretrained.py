"""A trained model in memory, from a run's checkpoint or from a Transformers folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from lengthen import checkpoint, settings
from lengthen.checkpoint import Checkpoint, Tensors
from lengthen.config import Config, Model
from lengthen.corpus.store import TOKENIZER, TOKENIZER_LIMIT, load_tokenizer, read_limited
from lengthen.corpus.tokenizer import resolve, separator, vocabulary
from lengthen.errors import DataError, SettingError
from lengthen.exchange.layout import first_difference, parameter_shapes, parse_config
from lengthen.exchange.tensors import read_weights
from lengthen.model import GPT
from lengthen.runlog import RunPaths

CONFIG = "config.json"
CONFIG_LIMIT = 2**20  # bytes
PADDING = 1024  # rows; an embedding that was padded for speed has fewer to spare


@dataclass(frozen=True)
class Pretrained:
    """Weights, the shape of the model that they are for, and the tokenizer that they know."""

    shape: Model  # its vocabulary is the tokenizer's
    weights: Tensors  # by our names, contiguous, on the CPU: float32 or float64
    tokenizer: Tokenizer
    tokenizer_file: bytes  # the tokenizer.json

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
    data = read_limited(paths.tokenizer, TOKENIZER_LIMIT)
    tokenizer = load_tokenizer(paths.tokenizer)
    return _without_padding(config.model, weights, tokenizer, data, f"run {paths.root}")


def read_folder(folder: Path) -> Pretrained:
    """Return the model of a Transformers folder with a GPT-2 in it.

    Links are followed: the hub's cache is made of them. Raises CheckpointError for a config.json or
    weights that cannot be used, DataError or SettingError for such a tokenizer, MemoryLimitError.
    """
    place = f"folder {folder}"
    data = read_limited((folder / CONFIG).resolve(), CONFIG_LIMIT)
    model = parse_config(data, f"{place}: {CONFIG}")
    tokenizer, tokenizer_file = _tokenizer(folder)
    weights = read_weights(folder, model)
    return _without_padding(model, weights, tokenizer, tokenizer_file, place)


def _tokenizer(folder: Path) -> tuple[Tokenizer, bytes]:
    file = (folder / TOKENIZER).resolve()
    if file.exists():
        tokenizer = load_tokenizer(file)
        separator(tokenizer)  # raises where there is none, as `resolve` does
        return tokenizer, read_limited(file, TOKENIZER_LIMIT)
    # The whole path, since a folder that is called "bytes" is still a folder.
    tokenizer = resolve(str(folder.resolve()))
    return tokenizer, tokenizer.to_str().encode()


def _without_padding(
    stored: Model, weights: Tensors, tokenizer: Tokenizer, data: bytes, place: str
) -> Pretrained:
    """Cut the rows of the embedding that no token has: they are storage, and no part of a loss."""
    rows, known = len(weights["tokens.weight"]), vocabulary(tokenizer)
    if not 0 <= rows - known < PADDING:
        sizes = f"the embedding has {rows} rows, the tokenizer {known} tokens"
        raise DataError(f"{place}: {sizes}; give it the tokenizer that it was trained with")
    cut = {**weights, "tokens.weight": weights["tokens.weight"][:known]}
    return Pretrained(stored.model_copy(update={"vocabulary": known}), cut, tokenizer, data)

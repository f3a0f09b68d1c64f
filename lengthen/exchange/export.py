"""Export a run as a folder that Transformers opens: whole or not at all."""

import json
import shutil
from pathlib import Path

from safetensors.torch import save as dump_tensors

from lengthen.checkpoint.read import load
from lengthen.config.load import load_run
from lengthen.data.tokenizer_files import TOKENIZER, TOKENIZER_CONFIG
from lengthen.exchange.architectures import Architecture, architecture_of
from lengthen.exchange.card import card
from lengthen.exchange.layout import HEAD, to_theirs
from lengthen.exchange.pretrained import CONFIG, Pretrained, read_run
from lengthen.exchange.tensors import WEIGHTS
from lengthen.run.directory import open_run
from lengthen.util.disk import Disk, temporary_beside
from lengthen.util.errors import SettingError
from lengthen.util.overwrite import check_directory, json_keys

GENERATION = "generation_config.json"
CARD = "README.md"
NAMES = {CONFIG, WEIGHTS, GENERATION, TOKENIZER, TOKENIZER_CONFIG, CARD}


def export(
    run: Path,
    out: Path,
    *,
    checkpoint: str | None = None,
    overwrite: bool = False,
    disk: Disk | None = None,
) -> tuple[str, list[str]]:
    """Write the checkpoint of that name, or the newest good one, as Transformers has its model.

    Returns the checkpoint's name and notes on damaged ones that were passed over, and on a dropout
    that does not leave with the model. Raises SettingError for a model that is none of
    `ARCHITECTURES`, CheckpointError, DataError and StorageError; `out` is as before then.
    """
    paths = open_run(run)
    config = load_run(paths.config)
    check_out(out, overwrite=overwrite)
    saved, notes = load(paths.checkpoints, checkpoint)
    model = read_run(paths, config, saved)
    architecture = architecture_of(model.shape)
    if (dropout := model.shape.dropout) and not architecture.says("dropout"):
        notes = [*notes, f"model.dropout is {dropout}; {architecture.name} has none"]
    readme = card(paths, config, saved, model.shape).encode()
    _write(disk or Disk(), out, {**_files(model, architecture), CARD: readme})
    return saved.path.name, notes


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise SettingError for a place that is neither empty nor, with `overwrite`, an old export."""
    if out.is_symlink():  # a rename would replace the link, not what it points to
        raise SettingError("--out", "must be a folder, or not there yet", str(out))

    def is_ours(names: set[str]) -> bool:
        # Transformers saves a model under the same names, and its version with it.
        return names == NAMES and "transformers_version" not in json_keys(out / CONFIG)

    check_directory(out, "exported model", is_ours, overwrite=overwrite)


def _files(model: Pretrained, architecture: Architecture) -> dict[str, bytes]:
    end = model.text.separator
    ends = {"bos_token_id": end, "eos_token_id": end}
    dtype = str(model.weights["tokens.weight"].dtype).removeprefix("torch.")
    config = {
        "architectures": [architecture.with_head],
        "model_type": architecture.kind,
        **architecture.values(model.shape),
        **{name: first for name, (first, *_) in architecture.plain.items() if first is not None},
        **ends,
        "torch_dtype": dtype,  # the older name, which newer versions read too
    }
    tokenizer_config = {
        # The class that takes tokenizer.json as it is; GPT-2's own would build it anew.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.shape.length,
        "bos_token": model.text.separator_text,
        "eos_token": model.text.separator_text,
        "clean_up_tokenization_spaces": False,
    }
    tensors = {
        theirs if theirs == HEAD else architecture.prefix + theirs: part
        for name, tensor in model.weights.items()
        for theirs, part in to_theirs(architecture, model.shape, name, tensor).items()
    }
    return {
        CONFIG: _json(config),
        GENERATION: _json({**ends, "pad_token_id": end}),
        TOKENIZER: model.text.files()[TOKENIZER],
        TOKENIZER_CONFIG: _json(tokenizer_config),
        WEIGHTS: dump_tensors(tensors, metadata={"format": "pt"}),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, indent=2).encode() + b"\n"


def _write(disk: Disk, out: Path, files: dict[str, bytes]) -> None:
    temporary = temporary_beside(out)
    try:
        disk.make_directory(temporary)
        for name, data in files.items():
            disk.write_file(temporary / name, data)
        disk.replace_directory(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

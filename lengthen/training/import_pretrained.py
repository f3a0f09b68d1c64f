"""Import a published model: make a run whose step 0 has its weights."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lengthen.checkpoint.read import State, Tensors
from lengthen.config.load import Source, load, nested, with_data, with_overrides
from lengthen.config.schema import Config, Tables
from lengthen.core.schedule import Counters
from lengthen.data.open_store import NO_STORE, open_store, with_store
from lengthen.data.store import Store
from lengthen.data.tokenizer import tokenizer_difference
from lengthen.distributed.auto import decided
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.launch import join_process_group
from lengthen.exchange.pretrained import Pretrained, read_folder
from lengthen.run import directory as runlog
from lengthen.run.directory import RunPaths
from lengthen.run.records import Event, to_json
from lengthen.training.fit import with_micro_tokens
from lengthen.training.run_files import Begun, write_run
from lengthen.training.trainer import Trainer
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError, shown

UNTRAINED = "gpt2-117m-baseline"  # fills the settings of a run that will not be trained on
# Of the model; the weights decide the others.
OPEN_SETTINGS = {"dropout", "positions_start", "z_loss"}


def import_pretrained(
    folder: Path,
    out: Path,
    *,
    recipe: Source | None = None,
    data: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    disk: Disk | None = None,
) -> list[str]:
    """Make `out` a run that begins with the model of a Transformers folder; return notes.

    With `data`, a token store, it can be trained on, by the settings of `recipe`; without, it can
    be sampled, verified and exported. Raises what `read_folder` and `train` raise before the first
    step, and DataError for a store with another tokenizer.
    """
    overrides = with_data(nested(settings), data)
    if recipe is None and overrides.get("data", {}).get("path"):
        rule = "is missing; it says how --data is trained on"
        raise SettingError("--recipe", rule, None, "laptop-10min-baseline is one")
    runlog.check_new(out, overwrite=overwrite)
    model = _read_model(folder, overrides)
    config, notes = load(recipe or UNTRAINED, _with_model(overrides, model))
    store = None if config.data.path is None else open_store(config)
    if store is not None:
        if model.dropouts and "dropout" not in overrides.get("model", {}):
            rule = f"is one for all, and the folder has {_dropouts(model)}"
            raise SettingError("model.dropout", rule, None, "say which: --model.dropout SHARE")
        _check_same_tokenizer(store, model, folder)
        config, reasons = decided(with_store(config, store), store)
        notes = [*notes, *reasons]
    elif model.dropouts:
        note = f"model.dropout is {config.model.dropout}; the folder has {_dropouts(model)}"
        notes = [*notes, note]
    with runlog.owned(out), join_process_group(config.run) as context:
        config, tensors, state = _first_state(config, model, store, context)
        text = model.text if store is None else store.text_tokenizer()
        facts = {"valid": None if store is None else store.manifest.valid.sha256}
        begun = Begun(0, tensors, state, _log(folder))
        write_run(disk or Disk(), RunPaths(out), config, text, facts, begun)
    return notes


def _read_model(folder: Path, overrides: Tables) -> Pretrained:
    """Return the model of the folder, with the separator of the store, if any, or its own."""
    path = overrides.get("data", {}).get("path")
    if path is None:
        return read_folder(folder)
    separator = Store.open(Path(path)).text_tokenizer().separator_text
    try:
        return read_folder(folder, separator)
    except SettingError as error:
        if error.setting != "separator":
            raise
        rule = f"its separator {separator} is no token of the folder {folder}"
        raise DataError(f"store {path}: {rule}; prepare it with --tokenizer {folder}") from None


def _dropouts(model: Pretrained) -> str:
    return ", ".join(f"{name} {share}" for name, share in model.dropouts.items())


def _with_model(overrides: Tables, model: Pretrained) -> Tables:
    """Lay the model's own shape under the overrides, and refuse those that it decides."""
    asked = overrides.get("model", {})
    for setting in asked:
        if setting not in OPEN_SETTINGS:
            raise SettingError(f"model.{setting}", "is decided by the folder", asked[setting])
    own = model.shape.model_dump(exclude=OPEN_SETTINGS - {"dropout"})  # which a folder has
    laid = {**overrides, "model": {**own, **asked}}
    if model.weights["tokens.weight"].dtype == torch.float64:
        # A recipe's own precision would round the weights away.
        laid["run"] = {"precision": "fp64", **overrides.get("run", {})}
    return laid


def _check_same_tokenizer(store: Store, model: Pretrained, folder: Path) -> None:
    if part := tokenizer_difference(store.tokenizer(), model.tokenizer):
        rule = f"its tokenizer is not that of the folder {folder} ({part} differ)"
        way_out = f"prepare it with --tokenizer {folder}"
        raise DataError(f"store {store.path}: {rule}; {way_out}")
    if store.vocabulary > (rows := model.shape.vocabulary or 0):
        rule = (
            f"its tokenizer has {shown(store.tokenizer().id_to_token(rows))} beyond the {rows} rows"
        )
        way_out = f"take it out of the tokenizer of {folder}, and prepare again"
        raise DataError(f"store {store.path}: {rule} of the embedding; {way_out}")


def _first_state(
    config: Config, model: Pretrained, store: Store | None, context: DistributedContext
) -> tuple[Config, dict[str, Tensors], State]:
    """Return the run before its first step: its settings, its weights and all else."""
    if store is None:
        config = with_overrides(config, {"data": {"store_id": NO_STORE}})
        tensors: dict[str, Tensors] = {"model": model.weights, "optimizer": {}}
        return config, tensors, {"counters": asdict(Counters())}
    config, micro_tokens = with_micro_tokens(config, store, context)
    trainer = Trainer(config, store, context, micro_tokens)
    trainer.model.load_state_dict(model.weights)
    return config, trainer.tensors(), trainer.state_dict()


def _log(folder: Path) -> bytes:
    """Return the line of the log that names the folder."""
    record = to_json(Event("imported", 0, 0, {"source": folder.resolve().name}))
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"

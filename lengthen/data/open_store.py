"""A configuration and the token store it is to be trained on, made to agree."""

from pathlib import Path

from lengthen.config import load as settings
from lengthen.config.schema import Config, Tables
from lengthen.data.store import Store
from lengthen.util.errors import DataError, SettingError

NO_STORE = "no store"  # instead of the id, in a run that was imported without one
WAY_OUT = {
    "train": "prepare a longer text, or choose a shorter model.length",
    "valid": "prepare with a larger --valid, or neither evaluate nor pace adaptively",
}


def open_store(config: Config, option: str = "--data.path") -> Store:
    """Open the store that a configuration names, and check that it is the run's own.

    Where it is gone, the message names the `option` that gives its new place.
    """
    if config.data.store_id == NO_STORE:
        rule = "was imported without a token store, so it cannot be trained on"
        raise SettingError(
            "RUN", rule, None, "import it again with --data STORE --recipe RECIPE --overwrite"
        )
    if config.data.path is None:
        raise SettingError(
            "data.path", "is missing", None, "give a token store with --data.path DIR"
        )
    path, expected = Path(config.data.path), config.data.store_id
    if expected is not None and not path.exists():
        rule = f"is not there any more; if it was moved, give {option} with its new place"
        raise DataError(f"store {path}: {rule}")
    store = Store.open(path)
    if expected not in (None, store.id):
        has = f"has id {store.id}, the run was trained on {expected}"
        raise DataError(f"store {config.data.path} {has}; give the run its own store back")
    return store


def with_store(config: Config, store: Store) -> Config:
    """Return the configuration with what the store decides.

    Raises DataError where the two do not fit together.
    """
    length, wanted = config.model.length, config.model.vocabulary
    if wanted not in (None, store.vocabulary):
        sizes = f"has a vocabulary of {store.vocabulary}, model.vocabulary is {wanted}"
        raise DataError(f"store {config.data.path} {sizes}; prepare it with the model's tokenizer")
    every = config.evaluation
    validates = config.pacing.kind == "adaptive" or every.every_steps or every.every_tokens
    for part, tokens in (("train", store.train), ("valid", store.valid)):
        if (part == "train" or validates) and len(tokens) <= length:
            has = f"the {part} part has {len(tokens)} tokens, needs at least {length + 1}"
            raise DataError(f"store {config.data.path}: {has}; {WAY_OUT[part]}")
    changes: Tables = {
        "data": {"path": str(store.path.resolve()), "store_id": store.id},
        "model": {"vocabulary": store.vocabulary},
    }
    if config.budget.minutes is None:  # else there are no tokens before training begins
        schedule = config.schedule(store.sequences(length))
        changes["pacing"] = schedule.pacing
        changes["optimizer"] = {"decay_tokens": schedule.decay_tokens}
    return settings.with_overrides(config, changes)

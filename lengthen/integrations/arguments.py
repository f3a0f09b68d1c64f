"""The arguments of a Trainer, and sizes of a model, that would train on something else.

Each is refused in one line that names it and the value to give, before the first step.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from lengthen.integrations.dataset import LengthenDataset
from lengthen.integrations.host import check_processes
from lengthen.util.errors import SettingError

# Argument, the value that it must have, and why.
REQUIRED: tuple[tuple[str, object, str], ...] = (
    ("per_device_train_batch_size", 1, "an item of the dataset is a ready batch of many rows"),
    ("train_sampling_strategy", "sequential", "the ledger has the order"),
    ("remove_unused_columns", False, "shift_labels would be taken out of the batches"),
    ("logging_strategy", "steps", "every step is recorded, with its gradient norm"),
    ("logging_steps", 1, "every step is recorded, with its gradient norm"),
    ("ignore_data_skip", False, "a resumed run would begin with the first step's tokens"),
    ("restore_callback_states_from_checkpoint", False, "the callback restores its own state"),
    ("average_tokens_across_devices", True, "ranks may have different numbers of tokens"),
    ("label_smoothing_factor", 0, "it is another loss"),
    ("auto_find_batch_size", False, "set gradient_accumulation_steps so that a micro-batch fits"),
)
ABSENT = {
    "deepspeed": "DeepSpeed is not supported yet",
    "fsdp": "sharded training is not supported yet",
    "parallelism_config": "tensor, context and sequence parallelism are not supported yet",
}


def check_arguments(arguments: Any, number_of_steps: int) -> None:
    """Raise SettingError for the first of a Trainer's `arguments` that will not do.

    `number_of_steps` is how many the dataset has.
    """
    for name, rule, value, hint in _mistakes(arguments, number_of_steps):
        raise SettingError(name, rule, getattr(value, "value", value), hint)  # of an enumeration
    check_processes(arguments.world_size, f"on a processor, {_give('use_cpu', True)}")


def _mistakes(arguments: Any, steps: int) -> Iterator[tuple[str, str, object, str]]:
    for name, wanted, why in REQUIRED:
        if (value := getattr(arguments, name)) != wanted:
            yield name, f"must be {wanted!r}, as {why}", value, _give(name, wanted)
    for name, why in ABSENT.items():
        if value := getattr(arguments, name):
            yield name, f"must be absent: {why}", value, "start it with torchrun alone"
    if arguments.n_gpu > 1:
        rule = "must be at most 1 in a process, since rows are cut for processes"
        yield "n_gpu", rule, arguments.n_gpu, "start with torchrun, or set CUDA_VISIBLE_DEVICES"
    for name in ("dispatch_batches", "split_batches"):
        if getattr(arguments.accelerator_config, name):
            rule = "must be False, as batches have different shapes"
            hint = f"give accelerator_config={{{name!r}: False}}"
            yield f"accelerator_config.{name}", rule, True, hint
    # The dataset holds the whole budget: beyond it the Trainer would begin it anew.
    if arguments.max_steps > steps:
        rule = f"must be at most the {steps} steps of the plan's budget"
        yield "max_steps", rule, arguments.max_steps, "give the plan a larger budget"
    if arguments.max_steps <= 0 and (epochs := arguments.num_train_epochs) != 1:
        rule = "must be 1, as the dataset holds every step of the budget"
        yield "num_train_epochs", rule, epochs, _give("num_train_epochs", 1)


def _give(name: str, wanted: object) -> str:
    return f"give TrainingArguments({name}={wanted!r})"


def check_model(model: nn.Module, full_length: int, vocabulary: int) -> None:
    """Raise SettingError for a model whose config says that it cannot take the longest step."""
    limits = (
        ("max_position_embeddings", full_length, "full length of the plan"),
        ("vocab_size", vocabulary, "vocabulary of the store"),
    )
    for name, needed, what in limits:
        limit = getattr(getattr(model, "config", None), name, needed)
        if limit < needed:
            raise SettingError(
                f"model.config.{name}", f"must be at least {needed}, the {what}", limit
            )


def check_dataset(dataset: LengthenDataset, loader: DataLoader[Any]) -> None:
    """Raise SettingError unless a Trainer reads the callback's dataset, and stacks its rows."""
    if loader.dataset is not dataset:
        raise SettingError("train_dataset", "must be the dataset that the callback was given")
    row = dataset.first_row()
    batch = loader.collate_fn([row, row]) if loader.collate_fn else {}
    if {name: tuple(value.shape) for name, value in batch.items()} != {
        name: (2, *value.shape) for name, value in row.items()
    }:
        rule = "must stack the rows as they are"
        hint = "give Trainer(data_collator=transformers.default_data_collator)"
        raise SettingError("data_collator", rule, type(loader.collate_fn).__name__, hint)

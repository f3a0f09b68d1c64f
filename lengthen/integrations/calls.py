"""How a loop of somebody else calls its model, and what comes out: loss and logits, by any name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lengthen.util.errors import SettingError

IGNORED = -100  # a target that counts in no loss
NUMBER = "num_items_in_batch"  # the number of targets in a step, as a Trainer hands it on
TARGETS = ("labels", "shift_labels")  # names of a row's targets


class Batch(NamedTuple):
    """What a pass has to be."""

    inputs: Tensor  # (rows, length) int64, on the CPU
    targets: Tensor  # the same; IGNORED counts nothing
    number: int  # targets of the whole step, over all passes and ranks


class Named(NamedTuple):
    """An argument that is a tensor of the batch."""

    name: str


class Even(NamedTuple):
    """An argument that is as large as the batch, and the same everywhere: a mask."""

    value: Tensor  # 0-d


class Call(NamedTuple):
    """How a loop calls its model; an argument that is not of the batch is as it was, or None."""

    places: tuple[object, ...]
    words: Mapping[str, object]
    numbered: bool  # is it told the number of targets?

    def on(self, model: nn.Module, batch: Mapping[str, Tensor], number: int) -> Any:
        """Call a model so; each of `batch` is (rows, length) int64."""
        places = [_of_batch(one, batch) for one in self.places]
        words = {word: _of_batch(one, batch) for word, one in self.words.items()}
        if self.numbered:
            words[NUMBER] = torch.tensor(number)
        return model(*places, **words)


def call_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Batch) -> Call | None:
    """Return how a model was called with the expected batch; None for any other call."""
    places = tuple(_kept(value, batch) for value in args)
    words = {
        word: Named(word) if word in TARGETS else _kept(value, batch)
        for word, value in kwargs.items()
        if word != NUMBER
    }
    named = {one.name for one in (*places, *words.values()) if isinstance(one, Named)}
    if "input_ids" not in named:
        return None
    known = {word: one for word, one in words.items() if one is not None}
    return Call(places, known, kwargs.get(NUMBER) is not None)


def _kept(value: object, batch: Batch) -> object:
    """Return what makes an argument again for another batch; None where nothing does."""
    if not isinstance(value, Tensor):
        # A number may be one of the batch, such as its length.
        return value if isinstance(value, bool | float | str) else None
    if value.shape != batch.inputs.shape:
        return None
    value = value.detach().cpu()
    if torch.equal(value, batch.inputs):
        return Named("input_ids")
    if torch.equal(value, batch.targets):
        return Named("shift_labels")
    first = value[0, 0]
    return Even(first) if bool((value == first).all()) else None


def _of_batch(kept: object, batch: Mapping[str, Tensor]) -> object:
    inputs = batch["input_ids"]
    if isinstance(kept, Even):
        return kept.value.to(inputs.device).expand(inputs.shape)
    return batch[kept.name] if isinstance(kept, Named) else kept


def outputs_of(output: Any, inputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the loss and the logits of every token in a model's output, as they are, if any.

    It is a mapping, an object with attributes, a tuple, or the logits alone.
    """
    if isinstance(output, Mapping):
        values = [output.get("loss"), output.get("logits")]
    elif isinstance(output, tuple | list):
        values = list(output)
    else:
        values = [getattr(output, "loss", None), getattr(output, "logits", output)]
    tensors = [one for one in values if isinstance(one, Tensor) and one.is_floating_point()]
    loss = next((one for one in tensors if one.numel() == 1), None)
    many = (one for one in tensors if one.dim() > 1 and one.shape[:-1].numel() == inputs.numel())
    return loss, next(many, None)


def must_have(logits: Tensor | None, model: nn.Module) -> Tensor:
    """Return the logits; raises SettingError where there are none."""
    if logits is None:
        rule = "must return the logits of every token, by which its loss is judged"
        hint = "return them beside the loss, without a fused loss kernel"
        raise SettingError("model", rule, type(model).__name__, hint)
    return logits

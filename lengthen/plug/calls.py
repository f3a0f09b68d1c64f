"""How a loop of somebody else calls its model, and what comes out: loss and logits, by any name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lengthen.errors import SettingError

IGNORED = -100  # a target that counts in no loss
NUMBER = "num_items_in_batch"  # the number of targets in a step, as a Trainer hands it on
TARGETS = ("labels", "shift_labels")  # names of a row's targets


class Batch(NamedTuple):
    """What a pass has to be."""

    inputs: Tensor  # (rows, length) int64, on the CPU
    targets: Tensor  # the same; IGNORED counts nothing
    number: int  # targets of the whole step, over all passes and ranks


class Call(NamedTuple):
    """How a loop calls its model: names of a row's tensors, by place and by keyword."""

    places: tuple[str | None, ...]
    words: Mapping[str, str]
    numbered: bool  # is it told the number of targets?

    def on(self, model: nn.Module, batch: Mapping[str, Tensor], number: int) -> Any:
        """Call a model so; each of `batch` is (rows, length) int64."""
        places = [None if name is None else batch[name] for name in self.places]
        words = {word: batch[name] for word, name in self.words.items()}
        if self.numbered:
            words[NUMBER] = torch.tensor(number)
        return model(*places, **words)


def call_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Batch) -> Call | None:
    """Return how a model was called with the expected batch; None for any other call."""
    places = tuple(_name_of(value, batch) for value in args)
    words = {
        word: word if word in TARGETS else _name_of(value, batch) for word, value in kwargs.items()
    }
    if "input_ids" not in (*places, *words.values()):
        return None
    named = {word: name for word, name in words.items() if name}
    return Call(places, named, kwargs.get(NUMBER) is not None)


def _name_of(value: object, batch: Batch) -> str | None:
    if not isinstance(value, Tensor) or value.shape != batch.inputs.shape:
        return None
    value = value.detach().cpu()
    if torch.equal(value, batch.inputs):
        return "input_ids"
    return "shift_labels" if torch.equal(value, batch.targets) else None


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

"""A folder of Transformers: what its config.json says, how its tensors are named and laid out.

Matrices of a layer are (out, in) here, and (in, out) in a GPT-2. A tied head is not stored. All
names but the head's may begin with a prefix, and contain what a wrapper such as torch.compile adds.
"""

import json
import re
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from torch import Tensor

from lengthen.checkpoint.read import Tensors
from lengthen.config.load import first_mistake
from lengthen.config.model import Model
from lengthen.exchange.architectures import ARCHITECTURES, Architecture, without_defaults
from lengthen.model.gpt import GPT
from lengthen.util.errors import CheckpointError, SettingError, closest, one_line, shown

HEAD = "lm_head.weight"
# Masks and angles that old folders store; no weights.
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|.*\.rotary_emb\.inv_freq")
# What DDP, torch.compile, FSDP and checkpointing of activations put into names.
WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)

Shape = tuple[int, ...]


def parse_config(data: bytes, place: str) -> tuple[Architecture, Model, dict[str, float]]:
    """Return what a config.json says: architecture, shape, and the dropouts, one in our model.

    The vocabulary is as it is stored. Raises CheckpointError, with `place` in front, for what is no
    model that we can compute.
    """
    try:
        said = _fields(data)
        architecture = _architecture(said)
        return architecture, *_shape(architecture, said)
    except (CheckpointError, SettingError) as error:
        raise CheckpointError(f"{place}: {error}") from None


def _fields(data: bytes) -> dict[str, Any]:
    """Return the fields, with those of rotary positions among them."""
    try:
        said = from_json(data)
    except ValueError as error:
        raise CheckpointError(f"Invalid JSON: {one_line(error)}") from None
    if not isinstance(said, dict):
        raise CheckpointError("must be an object")
    for table in ("rope_parameters", "rope_scaling"):  # in Transformers 5, in 4
        if isinstance(said.get(table), dict):
            said |= said.pop(table)
    return said


def _architecture(said: dict[str, Any]) -> Architecture:
    kind = said.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        rule = f"must be {' or '.join(map(repr, ARCHITECTURES))}"
        raise SettingError("model_type", rule, kind, closest(str(kind), ARCHITECTURES))
    if quantization := said.get("quantization_config"):
        rule = "the weights are quantised; save the model dequantised first"
        raise SettingError("quantization_config", rule, quantization)
    for name, values in ARCHITECTURES[kind].plain.items():
        value = said.get(name, values[0])
        if any(one not in values for one in (value if isinstance(value, list) else [value])):
            raise SettingError(name, f"must be {' or '.join(map(json.dumps, values))}", value)
    return ARCHITECTURES[kind]


def _shape(architecture: Architecture, said: dict[str, Any]) -> tuple[Model, dict[str, float]]:
    named = {architecture.others.get(name, (name,))[0]: value for name, value in said.items()}
    rows = architecture.settings
    values = {theirs: _value(named, theirs, default) for theirs, (_, default) in rows.items()}
    settings = {rows[theirs][0]: values[theirs] for theirs in reversed(rows)}  # the first of each
    settings |= {name: value for name, (value,) in architecture.fixed.items()}
    own = settings.keys() & Model.model_fields.keys()
    try:
        model = without_defaults(Model(**{name: settings[name] for name in own}))
    except ValidationError as error:
        mistake = first_mistake(error)
        theirs = architecture.says(mistake.setting)[0]
        raise SettingError(theirs, mistake.rule, mistake.value) from None
    dropouts = {theirs: values[theirs] for theirs in architecture.says("dropout")}
    for theirs, value in architecture.values(model).items():
        if values[theirs] not in (None, value) and theirs not in dropouts:
            raise SettingError(theirs, f"must be {json.dumps(value)}", values[theirs])
    return model, dropouts


def _value(said: dict[str, Any], name: str, default: Any) -> Any:
    kind: Any = int | None if default is None else type(default)
    try:
        return TypeAdapter(kind).validate_python(value := said.get(name, default), strict=True)
    except ValidationError as error:
        raise SettingError(name, first_mistake(error).rule, value) from None


def plain_name(stored: str, prefix: str) -> str:
    """Return the name of a stored tensor without prefix and wrappers."""
    return WRAPPERS.sub("", stored).removeprefix(prefix)


def their_names(architecture: Architecture, ours: str) -> tuple[str, ...]:
    """Return the names of a parameter in a folder, without the prefix: several for parts of it."""
    module, _, kind = ours.rpartition(".")
    before = ""
    if module.startswith("blocks."):
        _, number, module = module.split(".", 2)
        before = f"{architecture.layers}.{number}."
    return tuple(f"{before}{name}.{kind}" for name in architecture.modules[module])


def to_theirs(architecture: Architecture, shape: Model, ours: str, tensor: Tensor) -> Tensors:
    """Return a parameter of a model as it is in a folder: each part under its name."""
    names = their_names(architecture, ours)
    tensor = tensor.T if is_transposed(architecture, ours) else tensor
    queries, keys = (heads * shape.head_size for heads in (shape.heads, shape.key_heads))
    rows = [queries, keys, keys] if len(names) > 1 else [len(tensor)]
    parts = torch.split(tensor, rows)
    return {name: part.contiguous() for name, part in zip(names, parts, strict=True)}


def is_transposed(architecture: Architecture, ours: str) -> bool:
    """Return whether a parameter is a matrix of a layer that is stored the other way round."""
    is_matrix = ours.startswith("blocks.") and ours.endswith(".weight") and "norm" not in ours
    return architecture.transposed and is_matrix


def parameter_shapes(model: Model) -> dict[str, Shape]:
    """Return the shape of every parameter by our names; takes no memory for them."""
    with torch.device("meta"):  # one layer, since a thousand modules take seconds
        gpt = GPT(model, layers=1)
    return {
        name.replace("blocks.0.", f"blocks.{number}."): tuple(parameter.shape)
        for name, parameter in gpt.named_parameters()
        for number in range(model.layers if name.startswith("blocks.") else 1)
    }


def first_difference(shapes: dict[str, Shape], expected: dict[str, Shape]) -> str | None:
    """Return what is wrong with the first tensor that is missing, unknown or of another shape."""
    for name in sorted(shapes.keys() | expected.keys()):
        if name not in shapes:
            return f"lacks {name}"
        if name not in expected:
            return f"holds {shown(name)}, which is no part of this model"
        if shapes[name] != expected[name]:
            return f"has {name} of shape {shapes[name]}, must be {expected[name]}"
    return None

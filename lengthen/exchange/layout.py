"""GPT-2 as Transformers lays it out: names of tensors, transposed matrices, config.json.

    ours                        Transformers'
    tokens.weight               wte.weight                  (vocabulary, width)
    positions.weight            wpe.weight                  (length, width)
    blocks.I.attention.qkv      h.I.attn.c_attn             q, k and v, in this order
    blocks.I.perceptron.up      h.I.mlp.c_fc                and so on, see PARTS

Matrices of a layer are (in, out) there and (out, in) here. The head is the embedding, and not
stored. All names in a folder may begin with `transformer.`, and contain what a wrapper such as
torch.compile adds.
"""

import json
import re
from typing import Any, Literal

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lengthen.config.load import first_mistake
from lengthen.config.model import Model
from lengthen.model.gpt import GPT
from lengthen.util.errors import CheckpointError, SettingError, shown

PREFIX = "transformer."
HEAD = "lm_head.weight"
CAUSAL_MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # old folders store it; no weight
# What DDP, torch.compile, FSDP and checkpointing of activations put into names.
WRAPPERS = re.compile(
    r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
TOP = {"tokens": "wte", "positions": "wpe", "norm": "ln_f"}
PARTS = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "perceptron_norm": "ln_2",
    "perceptron.up": "mlp.c_fc",
    "perceptron.down": "mlp.c_proj",
}
SETTINGS = {
    "layers": "n_layer",
    "width": "n_embd",
    "heads": "n_head",
    "length": "n_positions",
    "vocabulary": "vocab_size",
    "dropout": "resid_pdrop",
    "init_std": "initializer_range",
    "norm_eps": "layer_norm_epsilon",
    "mlp_width": "n_inner",
}  # ours -> theirs
FIXED = {  # in a GPT-2
    "positions": "learned",
    "norm": "layer",
    "mlp": "gelu",
    "tied": True,
    "bias": True,
    "qk_norm": False,
}

Shape = tuple[int, ...]


def _either(default: int, *names: str) -> Any:
    return Field(default=default, validation_alias=AliasChoices(*names))


class Gpt2(BaseModel):
    """What config.json must say for the model to be ours; absent values are Transformers' own."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    model_type: Literal["gpt2"]
    vocab_size: int = 50257
    # Transformers reads the second names as well.
    n_positions: int = _either(1024, "n_positions", "max_position_embeddings")
    n_embd: int = _either(768, "n_embd", "hidden_size")
    n_layer: int = _either(12, "n_layer", "num_hidden_layers")
    n_head: int = _either(12, "n_head", "num_attention_heads")
    n_inner: int | None = None
    # Four names for the tanh form; the exact one differs in the fourth digit.
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"] = (
        "gelu_new"
    )
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: Literal[False] = False
    tie_word_embeddings: bool = True  # if false: the weights are compared
    quantization_config: Any = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _is_our_architecture(self) -> "Gpt2":
        if self.scale_attn_by_inverse_layer_idx and self.n_layer > 1:  # layer 0 divides by 1
            raise SettingError("scale_attn_by_inverse_layer_idx", "must be False", True)
        if self.quantization_config:
            rule = "the weights are quantised; save the model dequantised first"
            raise SettingError("quantization_config", rule, self.quantization_config)
        return self

    @classmethod
    def of(cls, model: Model) -> "Gpt2":
        """Return the config.json of one of our models; raises SettingError for no GPT-2."""
        ours = model.model_dump()
        fixed = {**FIXED, "kv_heads": model.heads if model.kv_heads else None}
        for name, value in fixed.items():
            if ours[name] != value:
                rule = f"must be {json.dumps(value)} for GPT-2, which has no other"
                raise SettingError(f"model.{name}", rule, ours[name])
        values = {theirs: ours[name] for name, theirs in SETTINGS.items()}
        others = {"embd_pdrop": model.dropout, "attn_pdrop": model.dropout}
        return cls.model_validate({"model_type": "gpt2", **values, **others})

    @property
    def dropouts(self) -> dict[str, float]:
        """The three dropouts, which are one in our model."""
        return {name: getattr(self, name) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}

    def model(self) -> Model:
        """Return the shape under our names; raises ValidationError outside our bounds."""
        return Model(**{ours: getattr(self, theirs) for ours, theirs in SETTINGS.items()})


def parse_config(data: bytes, place: str) -> tuple[Gpt2, Model]:
    """Return what a config.json says, and its shape, with the vocabulary as it is stored.

    Raises CheckpointError, with `place` in front, for what is no GPT-2 that we can compute.
    """
    try:
        config = Gpt2.model_validate_json(data)
        return config, config.model()
    except ValidationError as error:
        mistake = first_mistake(error)
        name = SETTINGS.get(mistake.setting, mistake.setting)
        # What is no JSON has no name in it; its text would say nothing.
        reason = SettingError(name, mistake.rule, mistake.value) if name else mistake.rule
        raise CheckpointError(f"{place}: {reason}") from None


def plain_name(stored: str) -> str:
    """Return the name of a stored tensor without prefix and wrappers."""
    return WRAPPERS.sub("", stored).removeprefix(PREFIX)


def their_name(ours: str) -> str:
    """Return the name of a parameter in a folder, without the prefix."""
    module, _, kind = ours.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, number, part = module.split(".", 2)
    return f"h.{number}.{PARTS[part]}.{kind}"


def is_transposed(ours: str) -> bool:
    """Return whether a parameter is the matrix of a linear layer."""
    return ours.endswith((".qkv.weight", ".out.weight", ".up.weight", ".down.weight"))


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

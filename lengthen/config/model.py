"""The settings of the GPT, and what follows from them alone."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lengthen.config.values import Count, Number, Share
from lengthen.core.settings import Doc
from lengthen.util.errors import SettingError

Positions = Literal["learned", "rope"]
Start = Literal["zero", "spread"]
Norm = Literal["layer", "rms"]
Perceptron = Literal["gelu", "swiglu"]


class Table(BaseModel):
    """The strictness that every table shares."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class Model(Table):
    """The GPT."""

    layers: Annotated[Count, Field(le=1024), Doc("transformer blocks")]
    width: Annotated[Count, Field(le=2**17), Doc("of the residual stream")]
    heads: Annotated[Count, Field(le=2**10), Doc("of attention; must divide `model.width`")]
    kv_heads: Annotated[
        Count | None,
        Doc(
            "of keys and values (arXiv:2305.13245); must divide `model.heads`", "", "`model.heads`"
        ),
    ] = None
    head_width: Annotated[
        Count | None, Field(le=2**17), Doc("of a query, a key or a value", "", "width / heads")
    ] = None
    length: Annotated[Count, Field(le=2**20), Doc("full length L", "tokens")]
    vocabulary: Annotated[Count | None, Field(le=2**22), Doc("size V", "tokens", "the store's")] = (
        None
    )
    dropout: Annotated[Share, Doc("on embeddings, attention and both branches")] = 0.0
    init_std: Annotated[Number, Doc("standard deviation of initial matrices")] = 0.02
    positions: Annotated[
        Positions, Doc("a table, or rotary ones (arXiv:2104.09864), which no GPT-2 export has")
    ] = "learned"
    rope_theta: Annotated[Number, Field(gt=0, le=1e12), Doc("base of the rotary angles")] = 10_000.0
    positions_start: Annotated[Start, Doc("where rows start: 0, or evenly at multiples of l")] = (
        "zero"
    )
    norm: Annotated[Norm, Doc("LayerNorm, or RMSNorm (arXiv:1910.07467)")] = "layer"
    norm_eps: Annotated[Number, Field(gt=0, le=1), Doc("epsilon of `model.norm`")] = 1e-5
    mlp: Annotated[
        Perceptron, Doc("down(gelu(up x)), or down(silu(gate x) * up x) (arXiv:2002.05202)")
    ] = "gelu"
    mlp_width: Annotated[
        Count | None,
        Field(le=2**20),
        Doc("inner width", "", "4 d; of swiglu 8/3 d, up to a multiple of 256"),
    ] = None
    tied: Annotated[bool, Doc("logits from the embedding, not from a separate matrix")] = True
    bias: Annotated[bool, Doc("biases of all products and of LayerNorm")] = True
    qk_norm: Annotated[bool, Doc("RMSNorm of each query and key (arXiv:2302.05442)")] = False
    z_loss: Annotated[
        Number, Field(le=1), Doc("weight of log(Z)^2 in the gradient (arXiv:2204.02311); 0: none")
    ] = 0.0

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "Model":
        if self.width % self.heads:
            raise SettingError("heads", f"must divide model.width ({self.width})", self.heads)
        if self.heads % self.key_heads:
            rule = f"must divide model.heads ({self.heads})"
            raise SettingError("kv_heads", rule, self.kv_heads)
        if self.positions == "rope" and self.head_size % 2:
            name = "heads" if self.head_width is None else "head_width"
            rule = "must give heads an even width for rotary positions"
            raise SettingError(name, rule, getattr(self, name))
        return self

    @property
    def head_size(self) -> int:
        """Elements of a query, a key or a value."""
        return self.head_width or self.width // self.heads

    @property
    def key_heads(self) -> int:
        """Heads of keys, and of values; each serves as many heads of queries as the others."""
        return self.kv_heads or self.heads

    @property
    def inner_width(self) -> int:
        """Elements between the products of the perceptron, by default those of Llama's rule."""
        if self.mlp_width is not None:
            return self.mlp_width
        return 4 * self.width if self.mlp == "gelu" else -(-8 * self.width // (3 * 256)) * 256

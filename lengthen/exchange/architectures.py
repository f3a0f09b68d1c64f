"""The architectures of Transformers that a GPT of ours can be: each a table of names and values."""

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from lengthen.config.model import Model
from lengthen.util.errors import SettingError

Table = dict[str, tuple[Any, ...]]
# What None means, of a Model.
EFFECTIVE = {"kv_heads": "key_heads", "mlp_width": "inner_width", "head_width": "head_size"}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one of them names the parts of a GPT, and what its config.json says."""

    kind: str  # model_type
    name: str
    with_head: str  # Transformers' class
    prefix: str  # of all names of tensors but the head's
    layers: str
    modules: Table  # ours -> theirs; for q, k and v, which are one in ours, one or three
    transposed: bool = False  # matrices of a layer are (in, out), not (out, in)
    settings: Table  # theirs -> ours, or a property of Model; its value where config.json has none
    others: Table = field(default_factory=dict)  # more names that Transformers reads -> theirs
    fixed: Table  # ours -> its only value
    plain: Table  # theirs -> the values that are ours; the first is written and, if absent, holds

    def differences(self, model: Model) -> dict[str, Any]:
        """Return the settings that a model would need to be one of these."""
        ours = without_defaults(model).model_dump()
        return {name: value for name, (value,) in self.fixed.items() if ours[name] != value}

    def says(self, ours: str) -> list[str]:
        """Return their names for a setting of ours."""
        return [theirs for theirs, (own, _) in self.settings.items() if own == ours]

    def values(self, model: Model) -> dict[str, Any]:
        """Return the settings of a model by their names."""
        rows = self.settings.items()
        return {name: getattr(model, EFFECTIVE.get(ours) or ours) for name, (ours, _) in rows}


def without_defaults(model: Model) -> Model:
    """Return the same model with None for what would be so by default."""
    bare = model.model_copy(update=dict.fromkeys(EFFECTIVE))
    same = [name for name, own in EFFECTIVE.items() if getattr(bare, own) == getattr(model, own)]
    return model.model_copy(update=dict.fromkeys(same))


def architecture_of(model: Model) -> Architecture:
    """Return what a model is in Transformers; raises SettingError, by the nearest, if nothing."""
    nearest = min(reversed(ARCHITECTURES.values()), key=lambda one: len(one.differences(model)))
    for name, value in nearest.differences(model).items():
        must = "must not be set" if value is None else f"must be {json.dumps(value)}"
        rule = f"{must} for {nearest.name}, which has no other"
        raise SettingError(f"model.{name}", rule, getattr(model, name))
    return nearest


def _table(text: str) -> Table:
    """Return a table of entries such as `name=text,1e-6,null`."""
    entries = (entry.split("=") for entry in text.split())
    return {name: tuple(map(_value, values.split(","))) for name, values in entries}


def _value(text: str) -> Any:
    with suppress(ValueError):
        return json.loads(text)
    return text


GPT2 = Architecture(
    kind="gpt2",
    name="GPT-2",
    with_head="GPT2LMHeadModel",
    prefix="transformer.",
    layers="h",
    modules=_table("""
        tokens=wte positions=wpe norm=ln_f head=lm_head attention_norm=ln_1 perceptron_norm=ln_2
        attention.qkv=attn.c_attn attention.out=attn.c_proj
        perceptron.up=mlp.c_fc perceptron.down=mlp.c_proj"""),
    transposed=True,
    settings=_table("""
        n_layer=layers,12 n_embd=width,768 n_head=heads,12 n_inner=mlp_width,null
        n_positions=length,1024 vocab_size=vocabulary,50257 tie_word_embeddings=tied,true
        resid_pdrop=dropout,0.1 embd_pdrop=dropout,0.1 attn_pdrop=dropout,0.1
        initializer_range=init_std,0.02 layer_norm_epsilon=norm_eps,1e-5"""),
    others=_table("""
        num_hidden_layers=n_layer hidden_size=n_embd num_attention_heads=n_head
        max_position_embeddings=n_positions"""),
    fixed=_table("""
        positions=learned norm=layer mlp=gelu bias=true qk_norm=false kv_heads=null
        head_width=null"""),
    # Four names for the tanh form of GELU; the exact one differs in the fourth digit.
    plain=_table("""
        activation_function=gelu_new,gelu_pytorch_tanh,gelu_fast,gelu_accurate
        scale_attn_weights=true scale_attn_by_inverse_layer_idx=false add_cross_attention=false"""),
)
LLAMA = Architecture(
    kind="llama",
    name="Llama",
    with_head="LlamaForCausalLM",
    prefix="model.",
    layers="layers",
    modules=_table("""
        tokens=embed_tokens norm=norm head=lm_head
        attention_norm=input_layernorm perceptron_norm=post_attention_layernorm
        attention.qkv=self_attn.q_proj,self_attn.k_proj,self_attn.v_proj
        attention.out=self_attn.o_proj perceptron.gate=mlp.gate_proj
        perceptron.up=mlp.up_proj perceptron.down=mlp.down_proj"""),
    settings=_table("""
        num_hidden_layers=layers,32 hidden_size=width,4096 intermediate_size=mlp_width,11008
        num_attention_heads=heads,32 num_key_value_heads=kv_heads,null head_dim=head_width,null
        max_position_embeddings=length,2048 vocab_size=vocabulary,32000
        tie_word_embeddings=tied,false attention_bias=bias,false mlp_bias=bias,false
        initializer_range=init_std,0.02 rms_norm_eps=norm_eps,1e-6 rope_theta=rope_theta,1e4"""),
    fixed=_table("positions=rope norm=rms mlp=swiglu qk_norm=false"),
    plain=_table("""
        hidden_act=silu,swish attention_dropout=0.0 sliding_window=null full_attention=null
        rope_type=null,default type=null,default partial_rotary_factor=null,1.0"""),
)
QWEN3 = replace(
    LLAMA,
    kind="qwen3",
    name="Qwen3",
    with_head="Qwen3ForCausalLM",
    modules=LLAMA.modules
    | _table("attention.query_norm=self_attn.q_norm attention.key_norm=self_attn.k_norm"),
    settings={name: row for name, row in LLAMA.settings.items() if name != "mlp_bias"}
    | _table("""
        num_key_value_heads=kv_heads,32 head_dim=head_width,128 intermediate_size=mlp_width,22016
        max_position_embeddings=length,32768 vocab_size=vocabulary,151936"""),
    # One epsilon serves all its norms; that of our QK-norm is always this.
    fixed=LLAMA.fixed | _table("qk_norm=true bias=false norm_eps=1e-6"),
    plain=LLAMA.plain | _table("use_sliding_window=false layer_types=null,full_attention"),
)
ARCHITECTURES = {one.kind: one for one in (GPT2, LLAMA, QWEN3)}

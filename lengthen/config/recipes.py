"""Named complete configurations: the paper's, and small ones for a laptop's processor.

Each recipe has a twin with `-baseline` after its name: the same without length pacing, at the
setting that the paper's baseline was trained with. A comment after a value of the paper's runs says
how sure it is: *paper* (its authors' own publications), *code* (their implementation), *derived*
(our arithmetic on those), *about* (remembered, and agrees with an arithmetic check), *ours* (not
found anywhere, so chosen by us). Model, data and hardware of the paper are not shipped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from lengthen.core.schedule import warmup_steps
from lengthen.util.errors import SettingError

Tables = dict[str, Any]
Recipe = Callable[[], Tables]

GPT2_VOCABULARY = 50257  # byte-level BPE of GPT-2


def rows_with_the_same_tokens(tables: Tables) -> Tables:
    """Return the rows warmup that trains as many tokens as this length pacing, step by step.

    start B*s/L, and for a linear one multiple B*m/L: with both whole, rows(t) * L equals
    B * length(t) at every step, which takes the number of tokens out of a comparison and leaves the
    length. Raises SettingError where either is not whole.
    """
    pacing, rows, length = tables["pacing"], tables["batch"]["rows"], tables["model"]["length"]
    scaled = {"start": pacing["start"]}
    if pacing["kind"] == "linear":
        scaled["multiple"] = pacing.get("multiple", 8)
    for name, value in scaled.items():
        if rows * value % length:
            rule = f"batch.rows * pacing.{name} must be a multiple of model.length ({length})"
            raise SettingError(f"pacing.{name}", rule, value)
        scaled[name] = rows * value // length
    return {**tables, "pacing": {**pacing, **scaled, "of": "rows", "end": rows}}


def _gpt2(layers: int, width: int, heads: int) -> Tables:
    return {
        "model": {
            "layers": layers,  # paper
            "width": width,  # paper
            "heads": heads,  # paper
            "length": 1024,  # paper
            "vocabulary": GPT2_VOCABULARY,  # paper; its padding was storage only
            "dropout": 0.1,  # code
            "init_std": 0.02,  # code
        },
        "pacing": {"kind": "constant"},
        "batch": {"rows": 512, "leftovers": "drop"},  # paper; code
        "optimizer": {
            "learning_rate": 1.5e-4,  # paper
            "min_learning_rate": 1e-5,  # paper
            "warmup_steps": 3000,  # paper
            "betas": (0.9, 0.999),  # code: the launcher passes none, whatever its JSON says
            "epsilon": 1e-8,  # code
            "weight_decay": 0.01,  # paper
            "decay_positions": True,  # code
            "clip": 1.0,  # paper
        },
        "budget": {"tokens": 157_286_400_000},  # paper
        "evaluation": {"every_steps": 100},  # paper
        "run": {"seed": 1234, "precision": "bf16"},  # paper; ours: the paper's runs were fp16
    }


def _gpt2_aggressive(layers: int, width: int, heads: int, start: int, duration: int) -> Tables:
    tables = _gpt2(layers, width, heads)
    tables["batch"]["rows"] = 4096  # paper: 8x
    tables["optimizer"]["learning_rate"] = 6e-4  # paper: 4x
    return {**tables, "pacing": {"kind": "linear", "start": start, "duration": duration}}


def _gpt3(
    *,
    layers: int,
    width: int,
    heads: int,
    init_std: float,
    rows: int,
    learning_rate: float,
    min_learning_rate: float,
    tokens: int = 300_000_000_000,  # paper
    decay_tokens: int = 260_000_000_000,  # paper
    start: int = 2048,
    duration: int = 0,  # 0: no length pacing
) -> Tables:
    paced = {"kind": "linear", "start": start, "duration": duration}
    return {
        "model": {
            "layers": layers,  # paper
            "width": width,  # paper
            "heads": heads,  # paper
            "length": 2048,  # paper
            "vocabulary": GPT2_VOCABULARY,  # paper
            "dropout": 0.1,  # code
            "init_std": init_std,  # paper
        },
        "pacing": paced if duration else {"kind": "constant"},
        "batch": {"rows": rows, "leftovers": "drop"},  # paper; code
        "optimizer": {
            "learning_rate": learning_rate,
            "min_learning_rate": min_learning_rate,
            "warmup_steps": warmup_steps(375_000_000, start, rows),  # paper: 375M tokens
            "decay_tokens": decay_tokens,
            "betas": (0.9, 0.95),  # paper
            "epsilon": 1e-8,  # code
            "weight_decay": 0.1,  # paper
            "decay_positions": True,  # code
            "clip": 1.0,  # paper
        },
        "budget": {"tokens": tokens},
        "evaluation": {"every_steps": 100},  # ours
        "run": {"seed": 1234, "precision": "bf16"},  # paper: GPT-2's; ours: fp16 in the paper
    }


def _laptop(
    *, layers: int, width: int, heads: int, rows: int, tokens: int, duration: int
) -> Tables:
    return {
        "model": {"layers": layers, "width": width, "heads": heads, "length": 256},
        "pacing": {"kind": "linear", "start": 16, "duration": duration},
        "batch": {"rows": rows},
        "optimizer": {
            "learning_rate": 3e-3,
            "min_learning_rate": 3e-4,
            "warmup_steps": 20,
            "betas": (0.9, 0.999),
            "weight_decay": 0.0,
        },
        "budget": {"tokens": tokens},
        "evaluation": {"every_tokens": tokens // 20},
        "saving": {"every_steps": 100},
    }


def _baseline_of(recipe: Recipe) -> Recipe:
    return lambda: {**recipe(), "pacing": {"kind": "constant"}}


MODERN: Tables = {"positions": "rope", "norm": "rms", "mlp": "swiglu", "bias": False}
LLAMA: Tables = {**MODERN, "tied": False}
QWEN: Tables = {**MODERN, "norm_eps": 1e-6, "rope_theta": 1e6, "qk_norm": True}  # Qwen3's


def _modern(model: Tables) -> Tables:
    """Return a model of 12 layers, trained as GPT-3's smallest was, on 2.5B tokens; all: ours."""
    sizes = {"layers": 12, "width": 768, "heads": 12, "length": 2048}
    return {
        "model": {**sizes, **model},
        "pacing": {"kind": "linear", "start": 64, "duration": 1500},
        "batch": {"rows": 256},
        "optimizer": {
            "learning_rate": 6e-4,
            "min_learning_rate": 6e-5,
            "warmup_steps": 700,
            "betas": (0.9, 0.95),
            "weight_decay": 0.1,
        },
        "budget": {"tokens": 2_500_000_000},
        "evaluation": {"every_tokens": 125_000_000},
        "run": {"precision": "bf16"},
    }


_laptop_10min = partial(
    _laptop, layers=4, width=128, heads=4, rows=64, tokens=5_000_000, duration=100
)


def _laptop_modern(model: Tables) -> Tables:
    tables = _laptop_10min()
    return {**tables, "model": {**tables["model"], "kv_heads": 2, "mlp_width": 344, **model}}


# Of GPT-3's two smallest: paper, but for what a recipe below says.
_gpt3_125m = partial(_gpt3, layers=12, width=768, heads=12, init_std=0.02, min_learning_rate=6e-5)
_gpt3_1_3b = partial(_gpt3, layers=24, width=2048, heads=16, init_std=0.013, min_learning_rate=2e-5)

RECIPES: dict[str, Recipe] = {
    # 8x batch and 4x learning rate, made safe by the warmup; start: the paper's tutorial;
    # duration: about, the tutorial says 15,000.
    "gpt2-117m": partial(_gpt2_aggressive, 12, 768, 12, start=8, duration=30_000),
    "gpt2-117m-baseline": partial(_gpt2, 12, 768, 12),
    # The paper's flagship case; start and duration: paper.
    "gpt2-1.5b": partial(_gpt2_aggressive, 48, 1600, 25, start=64, duration=45_000),
    "gpt2-1.5b-baseline": partial(_gpt2, 48, 1600, 25),
    # A tenth of the data, at 8x batch and 40x learning rate.
    "gpt3-125m": partial(  # minimum of the rate: ours, not found; the original recipe's
        _gpt3_125m,
        rows=2048,  # paper
        learning_rate=2.4e-2,  # derived from 40x
        tokens=30_000_000_000,  # derived from 10x less data
        decay_tokens=30_000_000_000,  # ours: not found
        start=72,  # paper: the sister script
        duration=11_500,  # ours: 11.5K is only remembered
    ),
    "gpt3-125m-baseline": partial(_gpt3_125m, rows=256, learning_rate=6e-4),
    "gpt3-1.3b": partial(_gpt3_1_3b, rows=4096, learning_rate=8e-4, start=80, duration=13_767),
    "gpt3-1.3b-baseline": partial(_gpt3_1_3b, rows=512, learning_rate=2e-4),
}
# Those whose baseline differs in the pacing alone.
PACED: dict[str, Recipe] = {
    # Widths and heads: 125M parameters with 32,000 tokens (Llama 2's), or 50,257 and a tied head.
    "llama-125m": partial(_modern, {**LLAMA, "kv_heads": 4, "mlp_width": 2048}),
    "qwen-125m": partial(_modern, {**QWEN, "kv_heads": 6, "mlp_width": 2304}),
    "laptop-2min": partial(
        _laptop, layers=4, width=64, heads=4, rows=32, tokens=1_500_000, duration=60
    ),
    "laptop-10min": _laptop_10min,
    "laptop-60min": partial(
        _laptop, layers=6, width=256, heads=8, rows=128, tokens=16_000_000, duration=150
    ),
    "laptop-llama": partial(_laptop_modern, LLAMA),
    "laptop-qwen": partial(_laptop_modern, QWEN),
}
for _name, _recipe in PACED.items():
    RECIPES |= {_name: _recipe, f"{_name}-baseline": _baseline_of(_recipe)}

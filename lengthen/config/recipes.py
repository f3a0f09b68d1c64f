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


_laptop_2min = partial(_laptop, layers=4, width=64, heads=4, rows=32, tokens=1_500_000, duration=60)
_laptop_10min = partial(
    _laptop, layers=4, width=128, heads=4, rows=64, tokens=5_000_000, duration=100
)
_laptop_60min = partial(
    _laptop, layers=6, width=256, heads=8, rows=128, tokens=16_000_000, duration=150
)

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


def _laptop_modern(model: Tables) -> Tables:
    tables = _laptop_10min()
    return {**tables, "model": {**tables["model"], "kv_heads": 2, "mlp_width": 344, **model}}


# Widths and heads: 125M parameters with 32,000 tokens (Llama 2's), and with 50,257 and a tied head.
_llama_125m = partial(_modern, {**LLAMA, "kv_heads": 4, "mlp_width": 2048})
_qwen_125m = partial(_modern, {**QWEN, "kv_heads": 6, "mlp_width": 2304})
_laptop_llama, _laptop_qwen = partial(_laptop_modern, LLAMA), partial(_laptop_modern, QWEN)

RECIPES: dict[str, Recipe] = {
    # 8x batch and 4x learning rate, made safe by the warmup; start: the paper's tutorial;
    # duration: about, the tutorial says 15,000.
    "gpt2-117m": partial(_gpt2_aggressive, 12, 768, 12, start=8, duration=30_000),
    "gpt2-117m-baseline": partial(_gpt2, 12, 768, 12),
    # The paper's flagship case; start and duration: paper.
    "gpt2-1.5b": partial(_gpt2_aggressive, 48, 1600, 25, start=64, duration=45_000),
    "gpt2-1.5b-baseline": partial(_gpt2, 48, 1600, 25),
    # A tenth of the data, at 8x batch and 40x learning rate.
    "gpt3-125m": partial(
        _gpt3,
        layers=12,
        width=768,
        heads=12,
        init_std=0.02,
        rows=2048,  # paper
        learning_rate=2.4e-2,  # derived from 40x
        min_learning_rate=6e-5,  # ours: not found; the original recipe's, as is the warmup
        tokens=30_000_000_000,  # derived from 10x less data
        decay_tokens=30_000_000_000,  # ours: not found
        start=72,  # paper: the sister script
        duration=11_500,  # ours: 11.5K is only remembered
    ),
    "gpt3-125m-baseline": partial(  # the original recipe; all of it: paper
        _gpt3,
        layers=12,
        width=768,
        heads=12,
        init_std=0.02,
        rows=256,
        learning_rate=6e-4,
        min_learning_rate=6e-5,
    ),
    "gpt3-1.3b": partial(  # all of it: paper
        _gpt3,
        layers=24,
        width=2048,
        heads=16,
        init_std=0.013,
        rows=4096,
        learning_rate=8e-4,
        min_learning_rate=2e-5,
        start=80,
        duration=13_767,
    ),
    "gpt3-1.3b-baseline": partial(  # all of it: paper
        _gpt3,
        layers=24,
        width=2048,
        heads=16,
        init_std=0.013,
        rows=512,
        learning_rate=2e-4,
        min_learning_rate=2e-5,
    ),
    "llama-125m": _llama_125m,
    "llama-125m-baseline": _baseline_of(_llama_125m),
    "qwen-125m": _qwen_125m,
    "qwen-125m-baseline": _baseline_of(_qwen_125m),
    "laptop-2min": _laptop_2min,
    "laptop-2min-baseline": _baseline_of(_laptop_2min),
    "laptop-10min": _laptop_10min,
    "laptop-10min-baseline": _baseline_of(_laptop_10min),
    "laptop-60min": _laptop_60min,
    "laptop-60min-baseline": _baseline_of(_laptop_60min),
    "laptop-llama": _laptop_llama,
    "laptop-llama-baseline": _baseline_of(_laptop_llama),
    "laptop-qwen": _laptop_qwen,
    "laptop-qwen-baseline": _baseline_of(_laptop_qwen),
}

"""Named complete configurations: the paper's, and small ones for a laptop's processor.

Each recipe has a twin with `-baseline` behind its name: the same without length pacing, at the
setting that the paper's baseline was trained with. A comment after a value of the paper's runs says
how sure it is: *paper* (its authors' own publications), *code* (their implementation), *derived*
(our arithmetic on those), *about* (remembered, and agrees with an arithmetic check), *ours* (not
found anywhere, so chosen by us). Model, data and hardware of the paper are not shipped.
"""

from collections.abc import Callable
from typing import Any

from lengthen.core.schedule import warmup_steps
from lengthen.util.errors import SettingError

Tables = dict[str, Any]
Recipe = Callable[[], Tables]

GPT2_VOCABULARY = 50257  # byte-level BPE of GPT-2


def gpt2_117m() -> Tables:
    """GPT-2 117M at 8x batch and 4x learning rate, made safe by the warmup."""
    return {
        **_gpt2_aggressive(layers=12, width=768, heads=12),
        "pacing": {
            "kind": "linear",
            "start": 8,  # paper: tutorial
            "duration": 30_000,  # about; the tutorial says 15,000
        },
    }


def gpt2_117m_baseline() -> Tables:
    """GPT-2 117M as it was trained before: 512 rows, 1.5e-4."""
    return _gpt2(layers=12, width=768, heads=12)


def gpt2_1_5b() -> Tables:
    """GPT-2 1.5B at 8x batch and 4x learning rate: the paper's flagship case."""
    return {
        **_gpt2_aggressive(layers=48, width=1600, heads=25),
        "pacing": {
            "kind": "linear",
            "start": 64,  # paper
            "duration": 45_000,  # paper
        },
    }


def gpt2_1_5b_baseline() -> Tables:
    """GPT-2 1.5B as it was trained before: 512 rows, 1.5e-4."""
    return _gpt2(layers=48, width=1600, heads=25)


def gpt3_125m() -> Tables:
    """GPT-3 125M on a tenth of the data, at 8x batch and 40x learning rate."""
    start, rows = 72, 2048  # paper: the sister script; rows: paper
    return _gpt3(
        layers=12,
        width=768,
        heads=12,
        init_std=0.02,  # paper
        rows=rows,
        learning_rate=2.4e-2,  # derived from 40x
        min_learning_rate=6e-5,  # ours: not found; the original recipe's
        tokens=30_000_000_000,  # derived from 10x less data
        decay_tokens=30_000_000_000,  # ours: not found
        warmup=warmup_steps(375_000_000, start, rows),  # ours: not found; the original recipe's
        pacing={
            "kind": "linear",
            "start": start,
            "duration": 11_500,
        },  # ours: 11.5K is only remembered
    )


def gpt3_125m_baseline() -> Tables:
    """GPT-3 125M, the original recipe: 256 rows, 6e-4, 300 billion tokens."""
    rows = 256  # paper
    return _gpt3(
        layers=12,
        width=768,
        heads=12,
        init_std=0.02,  # paper
        rows=rows,
        learning_rate=6e-4,  # paper
        min_learning_rate=6e-5,  # paper
        tokens=300_000_000_000,  # paper
        decay_tokens=260_000_000_000,  # paper
        warmup=warmup_steps(375_000_000, 2048, rows),  # paper: 375M tokens
        pacing={"kind": "constant"},
    )


def gpt3_1_3b() -> Tables:
    """GPT-3 1.3B with the warmup, 4096 rows, 8e-4."""
    start, rows = 80, 4096  # paper
    return _gpt3(
        layers=24,
        width=2048,
        heads=16,
        init_std=0.013,  # paper
        rows=rows,
        learning_rate=8e-4,  # paper
        min_learning_rate=2e-5,  # paper
        tokens=300_000_000_000,  # paper
        decay_tokens=260_000_000_000,  # paper
        warmup=warmup_steps(375_000_000, start, rows),  # paper: 375M tokens
        pacing={"kind": "linear", "start": start, "duration": 13_767},  # paper
    )


def gpt3_1_3b_baseline() -> Tables:
    """GPT-3 1.3B without the warmup: 512 rows, 2e-4."""
    rows = 512  # paper
    return _gpt3(
        layers=24,
        width=2048,
        heads=16,
        init_std=0.013,  # paper
        rows=rows,
        learning_rate=2e-4,  # paper
        min_learning_rate=2e-5,  # paper
        tokens=300_000_000_000,  # paper
        decay_tokens=260_000_000_000,  # paper
        warmup=warmup_steps(375_000_000, 2048, rows),  # paper: 375M tokens
        pacing={"kind": "constant"},
    )


def laptop_2min() -> Tables:
    """A GPT that two cores train in about two minutes."""
    return _laptop(layers=4, width=64, heads=4, rows=32, tokens=1_500_000, duration=60)


def laptop_10min() -> Tables:
    """A GPT that two cores train in about ten minutes."""
    return _laptop(layers=4, width=128, heads=4, rows=64, tokens=5_000_000, duration=100)


def laptop_60min() -> Tables:
    """A GPT that two cores train in about an hour."""
    return _laptop(layers=6, width=256, heads=8, rows=128, tokens=16_000_000, duration=150)


def baseline_of(recipe: Recipe) -> Recipe:
    """Return the recipe with its length held at full length."""
    return lambda: {**recipe(), "pacing": {"kind": "constant"}}


def rows_with_the_same_tokens(tables: Tables) -> Tables:
    """Return the rows warmup that trains as many tokens as this linear length pacing, step by step.

    start B*s/L, multiple B*m/L: with both whole, rows(t) * L equals B * length(t) at every step,
    which takes the number of tokens out of a comparison and leaves the length. Raises SettingError
    where either is not whole.
    """
    pacing, rows, length = tables["pacing"], tables["batch"]["rows"], tables["model"]["length"]
    scaled = {}
    for name, value in (("start", pacing["start"]), ("multiple", pacing.get("multiple", 8))):
        if rows * value % length:
            rule = f"batch.rows * pacing.{name} must be a multiple of model.length ({length})"
            raise SettingError(f"pacing.{name}", rule, value)
        scaled[name] = rows * value // length
    same = {"kind": "linear", "of": "rows", "end": rows, "duration": pacing["duration"], **scaled}
    return {**tables, "pacing": same}


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


def _gpt2_aggressive(layers: int, width: int, heads: int) -> Tables:
    tables = _gpt2(layers, width, heads)
    tables["batch"]["rows"] = 4096  # paper: 8x
    tables["optimizer"]["learning_rate"] = 6e-4  # paper: 4x
    return tables


def _gpt3(
    *,
    layers: int,
    width: int,
    heads: int,
    init_std: float,
    rows: int,
    learning_rate: float,
    min_learning_rate: float,
    tokens: int,
    decay_tokens: int,
    warmup: int,
    pacing: Tables,
) -> Tables:
    return {
        "model": {
            "layers": layers,  # paper
            "width": width,  # paper
            "heads": heads,  # paper
            "length": 2048,  # paper
            "vocabulary": GPT2_VOCABULARY,  # paper
            "dropout": 0.1,  # code
            "init_std": init_std,
        },
        "pacing": pacing,
        "batch": {"rows": rows, "leftovers": "drop"},  # code
        "optimizer": {
            "learning_rate": learning_rate,
            "min_learning_rate": min_learning_rate,
            "warmup_steps": warmup,
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


RECIPES: dict[str, Recipe] = {
    "gpt2-117m": gpt2_117m,
    "gpt2-117m-baseline": gpt2_117m_baseline,
    "gpt2-1.5b": gpt2_1_5b,
    "gpt2-1.5b-baseline": gpt2_1_5b_baseline,
    "gpt3-125m": gpt3_125m,
    "gpt3-125m-baseline": gpt3_125m_baseline,
    "gpt3-1.3b": gpt3_1_3b,
    "gpt3-1.3b-baseline": gpt3_1_3b_baseline,
    "laptop-2min": laptop_2min,
    "laptop-2min-baseline": baseline_of(laptop_2min),
    "laptop-10min": laptop_10min,
    "laptop-10min-baseline": baseline_of(laptop_10min),
    "laptop-60min": laptop_60min,
    "laptop-60min-baseline": baseline_of(laptop_60min),
}

"""Seconds a token by length of the recipes `gpt2-117m` and `llama-125m`.

32,768 tokens a step in one micro-batch, in bfloat16. `python -m scripts.predicted_saving` turns the
two tables into what a warmup saves on this device.
"""

from typing import Any

from lengthen.config import load as settings
from lengthen.config.schema import Config
from scripts.gpu.parts import Call, called
from scripts.gpu.seconds import seconds_by_length
from scripts.predicted_saving import SHAPES

LONGEST, SHORTEST = 32_768, 64
# What a rehearsal has of a shape.
SMALL = {"layers": 2, "width": 32, "heads": 2, "vocabulary": 512, "kv_heads": None}
BESIDE = 12.0  # seconds of a table that are no steps


def configuration(call: Call, shape: dict[str, Any], longest: int) -> Config:
    """Return a training with one row of `longest` tokens in a step."""
    return settings.build(
        {
            "model": {**shape, **(SMALL if call.rehearse else {}), "length": longest},
            "pacing": {"kind": "constant"},
            "batch": {"rows": 1},
            "optimizer": {"learning_rate": 1e-4},
            "budget": {"tokens": 10**12},
            "run": {"device": call.device, "precision": "bf16"},
        }
    )


def main(call: Call) -> None:
    """Measure both."""
    longest = 512 if call.rehearse else LONGEST
    each = call.seconds / len(SHAPES) - BESIDE
    for name, shape in SHAPES.items():
        config = configuration(call, shape, longest)
        seconds_by_length(call, name, config, SHORTEST, passes=longest, seconds=each)


if __name__ == "__main__":
    main(called())

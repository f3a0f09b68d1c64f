"""The values of settings as they are written: counts, numbers, lists, devices."""

import re
from collections.abc import Sequence
from decimal import Decimal, DecimalException
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lengthen.util.errors import SettingError, nearest

SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
MOST = 10**15  # an upper bound for every count: far above any run, far below any overflow


def parse_count(value: object) -> object:
    """Turn "375M" or "1.5B" into a whole number; leave anything else to the next check."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    text = value.replace("_", "").strip()
    scale = SUFFIXES.get(text[-1:].upper(), 1)
    try:
        number = Decimal(text[:-1] if scale > 1 else text) * scale
    except DecimalException:
        number = Decimal("NaN")
    if not number.is_finite() or number != number.to_integral_value():
        raise ValueError("must be a whole number, with K, M, B or T after it if you like")
    if number.adjusted() >= 300:  # no float holds it, and no message
        raise ValueError("must be below 10^300")
    return int(number)


def parse_list(value: object) -> Sequence[object]:
    """Turn "256,4K", as a command line has it, and a single number into the list that is meant."""
    if isinstance(value, str):
        return [item.strip() for item in value.strip("[]").split(",")]
    return value if isinstance(value, list | tuple) else [value]


def as_rate(value: object) -> float:
    """Return a rate as a table will read it, which may be a text such as ".006"; 0 for no rate."""
    try:
        return float(str(value))
    except ValueError:
        return 0.0


def no_bool(value: object) -> object:
    """Refuse true and false where a number is meant."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps")
CUDA_CARD = re.compile(r"cuda:(0|[1-9][0-9]{0,3})")


def known_device(value: object) -> object:
    """Refuse text that names no device; raises SettingError with a bare name."""
    if not isinstance(value, str) or value in DEVICES or CUDA_CARD.fullmatch(value):
        return value
    rule = 'must be "auto", "cpu", "cuda", "cuda:N" with the number of a GPU, or "mps"'
    meant = value.lower().replace("gpu", "cuda")
    close = [meant] if CUDA_CARD.fullmatch(meant) else DEVICES
    raise SettingError("device", rule, value, nearest(meant, close))


# Each with the word for it in the reference.
Count = Annotated[int, BeforeValidator(parse_count), Field(ge=1, le=MOST), "count"]
CountOrOff = Annotated[int, BeforeValidator(parse_count), Field(ge=0, le=MOST), "count or 0"]
Number = Annotated[float, BeforeValidator(no_bool), Field(ge=0), "number"]
Share = Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=1), "share"]
Betas = Annotated[tuple[Share, Share], BeforeValidator(parse_list)]
Trackers = Annotated[
    tuple[Literal["tensorboard", "wandb"], ...], BeforeValidator(parse_list), "list"
]

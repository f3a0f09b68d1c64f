"""The names that a device of a run can have."""

import re

from lengthen.util.errors import SettingError, nearest

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

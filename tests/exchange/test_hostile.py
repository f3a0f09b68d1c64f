"""A folder that asks for more than there is; odd bytes and values are in tests/fuzz."""

from pathlib import Path

import pytest

from lengthen.exchange import tensors as exchange_tensors
from lengthen.exchange.pretrained import read
from lengthen.util.errors import MemoryLimitError


def test_f48_more_weights_than_memory_are_refused_before_they_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_tensors, "cpu_memory_limit", lambda: 1000)
    monkeypatch.setattr(exchange_tensors.Stored, "load", lambda _: pytest.fail("was loaded"))
    with pytest.raises(MemoryLimitError, match="its weights take 15776 bytes, 1000 are free"):
        read(folder)

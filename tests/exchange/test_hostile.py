"""Whatever a folder holds: a model, or one line that says why not."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lengthen.errors import LengthenError, MemoryLimitError
from lengthen.exchange import tensors as exchange_tensors
from lengthen.exchange.export import export
from lengthen.exchange.layout import Gpt2
from lengthen.exchange.pretrained import read
from tests.exchange.made import TINY, saved_run


def assert_refused_or_read(folder: Path) -> None:
    """Whatever a folder holds: a model, or one line that says why not."""
    message = ""
    try:
        read(folder).gpt()
    except LengthenError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000


WORDS = st.sampled_from(["gpt2", "gelu_new", "gelu", "llama", "", "\n\x1b[31m", "1e5", "x" * 3000])
NUMBERS = st.integers(-3, 40) | st.sampled_from([2**20, 2**31, 2**64, 10**30]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=4,
)
FIELDS = st.sampled_from(list(Gpt2.model_fields))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that nobody spoils."""
    place = tmp_path_factory.mktemp("good")
    export(saved_run(place / "run", TINY), place / "hf")
    return place / "hf"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Path:
    """A copy of which one file is written anew for every example."""
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("scratch") / "hf"))


@hypothesis_settings(max_examples=300)
@given(fields=st.dictionaries(FIELDS, VALUES, min_size=1, max_size=4))
def test_no_value_in_config_json_is_a_crash(
    good: Path, scratch: Path, fields: dict[str, object]
) -> None:
    described = json.loads((good / "config.json").read_bytes())
    data = json.dumps({**described, **fields})
    (scratch / "config.json").write_text(data, encoding="utf-8")
    assert_refused_or_read(scratch)


@hypothesis_settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_no_bytes_for_config_json_are_a_crash(scratch: Path, data: bytes) -> None:
    (scratch / "config.json").write_bytes(data)
    assert_refused_or_read(scratch)


@pytest.fixture(scope="module")
def weights_only(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("weights") / "hf"))


def with_header(data: bytes, header: bytes, size: int | None = None) -> bytes:
    """Replace the header of a safetensors file, and let it claim a size."""
    end = 8 + int.from_bytes(data[:8], "little")
    claimed = len(header) if size is None else size
    return claimed.to_bytes(8, "little") + header + data[end:]


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I8", "F8_E4M3", "x", 3, None]),
        "shape": st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**63, 2**70]), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 300) | st.just(2**63), min_size=1, max_size=3),
    },
)


@hypothesis_settings(max_examples=200)
@given(
    name=st.sampled_from(["transformer.wte.weight", "wte.weight", "../x", "", "h.0.attn.bias"]),
    entry=ENTRIES | VALUES,
    size=st.none() | st.sampled_from([0, 1, 2**20, 2**31, 2**63, 2**64 - 1]),
)
def test_f48_no_header_of_the_weights_is_a_crash(
    good: Path, weights_only: Path, name: str, entry: object, size: int | None
) -> None:
    data = (good / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    old = header.get(name, {})
    header[name] = {**old, **entry} if isinstance(entry, dict) else entry
    forged = with_header(data, json.dumps(header).encode(), size)
    (weights_only / "model.safetensors").write_bytes(forged)
    assert_refused_or_read(weights_only)


@hypothesis_settings(max_examples=200)
@given(data=st.data())
def test_f48_no_cut_and_no_changed_byte_of_the_weights_is_a_crash(
    good: Path, weights_only: Path, data: st.DataObject
) -> None:
    whole = bytearray((good / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(whole)) | st.integers(0, len(whole)))
    (weights_only / "model.safetensors").write_bytes(whole[:end])
    assert_refused_or_read(weights_only)


def test_f48_more_weights_than_memory_are_refused_before_they_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_tensors, "cpu_memory_limit", lambda: 1000)
    monkeypatch.setattr(exchange_tensors.Stored, "load", lambda _: pytest.fail("was loaded"))
    with pytest.raises(MemoryLimitError, match="its weights take 15776 bytes, 1000 are free"):
        read(folder)

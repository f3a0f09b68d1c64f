"""The config.json and the index of a Transformers folder."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.exchange.architectures import ARCHITECTURES
from lengthen.exchange.pretrained import read
from lengthen.exchange.tensors import INDEX
from tests.exchange.made import sharded
from tests.fuzz.law import held
from tests.fuzz.spoiled import bytes_near, json_near, json_values, words
from tests.fuzz.test_safetensors import good

__all__ = ["good"]  # the fixture

terms = st.sampled_from([*ARCHITECTURES, "gelu_new", "gelu", "silu", "1e5"]) | json_values
tables = [table for one in ARCHITECTURES.values() for table in (one.settings, one.plain)]
names = sorted({"model_type", "rope_scaling", "rope_parameters", *(n for t in tables for n in t)})
fields = st.dictionaries(st.sampled_from(names), terms, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("config") / "hf"))


@given(fields=fields)
def test_a_shape_of_any_value(good: Path, folder: Path, fields: dict[str, object]) -> None:
    described = json.loads((good / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**described, **fields}), encoding="utf-8")
    held("config.json", lambda: read(folder).gpt())


@given(data=st.data())
def test_a_config_json_of_any_bytes(good: Path, folder: Path, data: st.DataObject) -> None:
    described = (good / "config.json").read_bytes()
    (folder / "config.json").write_bytes(data.draw(bytes_near(described)))
    held("config.json", lambda: read(folder).gpt())


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Path:
    return sharded(Path(shutil.copytree(good, tmp_path_factory.mktemp("index") / "hf")))


@pytest.fixture(scope="module")
def whole(spread: Path) -> object:
    return json.loads((spread / INDEX).read_bytes())


@given(data=st.data())
def test_an_index(spread: Path, whole: object, data: st.DataObject) -> None:
    names = st.sampled_from(["/dev/zero", "..", "a/b", "config.json", "model-00001-of-00002"])
    places = st.dictionaries(words, names | words | json_values, max_size=3)
    odd = places.map(lambda found: json.dumps({"weight_map": found}).encode())
    (spread / INDEX).write_bytes(data.draw(json_near(whole) | odd))
    held("config.json", lambda: read(spread).gpt())

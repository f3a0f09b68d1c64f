"""The weights of a folder, and those of a checkpoint."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.checkpoint.verify import manifest_bytes
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read
from tests.exchange.made import TINY, saved_run
from tests.fuzz.law import held
from tests.fuzz.spoiled import json_values

entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "BF16", "I8", "F8_E4M3", "x", 3, None]),
        "shape": st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**63, 2**70]), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 300) | st.just(2**63), min_size=1, max_size=3),
    },
)
names = st.sampled_from(["transformer.wte.weight", "wte.weight", "../x", "", "h.0.attn.bias"])
sizes = st.none() | st.sampled_from([0, 1, 2**20, 2**31, 2**63, 2**64 - 1])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that nobody spoils."""
    place = tmp_path_factory.mktemp("good")
    export(saved_run(place / "run", TINY), place / "hf")
    return place / "hf"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("scratch") / "hf"))


def with_header(data: bytes, header: bytes, size: int | None = None) -> bytes:
    """Replace the header of a safetensors file, and let it claim a size."""
    end = 8 + int.from_bytes(data[:8], "little")
    claimed = len(header) if size is None else size
    return claimed.to_bytes(8, "little") + header + data[end:]


def header_of(data: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


@given(name=names, entry=entries | json_values, size=sizes)
def test_f48_a_header_of_any_value(
    good: Path, scratch: Path, name: str, entry: object, size: int | None
) -> None:
    data = (good / "model.safetensors").read_bytes()
    header = header_of(data)
    old = header.get(name, {})
    header[name] = {**old, **entry} if isinstance(entry, dict) else entry
    forged = with_header(data, json.dumps(header).encode(), size)
    (scratch / "model.safetensors").write_bytes(forged)
    held("safetensors", lambda: read(scratch).gpt())


@given(data=st.data())
def test_f48_weights_with_bytes_changed_or_cut(
    good: Path, scratch: Path, data: st.DataObject
) -> None:
    whole = bytearray((good / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(whole)) | st.integers(0, len(whole)))
    (scratch / "model.safetensors").write_bytes(whole[:end])
    held("safetensors", lambda: read(scratch).gpt())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("saved") / "run", TINY)


@pytest.fixture(scope="module")
def whole(saved: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (saved / "checkpoints").glob("*/*")}


@given(name=st.sampled_from(["tokens.weight", "../x", "norm.bias"]), entry=entries, size=sizes)
def test_f48_a_checkpoint_whose_seal_is_right_and_whose_header_is_not(
    saved: Path, whole: dict[str, bytes], name: str, entry: dict[str, object], size: int | None
) -> None:
    path = saved / "checkpoints" / "step-00000003"
    file = path / "model.safetensors"
    data, header = whole[file.name], header_of(whole[file.name])
    header[name] = {**header.get(name, {}), **entry}
    file.write_bytes(with_header(data, json.dumps(header).encode(), size))
    seal_anew(path)
    held("safetensors", lambda: read(saved).gpt())


def seal_anew(path: Path) -> None:
    """Give a checkpoint the manifest that its files have now, as somebody who forges one would."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    for name, entry in manifest["files"].items():
        data = (path / name).read_bytes()
        entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_bytes(manifest_bytes(manifest))

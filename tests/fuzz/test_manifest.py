"""The manifest.json of a token store and of a checkpoint."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import damage, extra_files, manifest_bytes
from lengthen.checkpoint.write import write_checkpoint
from lengthen.data import store as stores
from lengthen.data.store import Store
from lengthen.data.store_manifest import content_id
from lengthen.util.disk import Disk
from tests.fuzz.law import held
from tests.fuzz.spoiled import json_near, tables_near


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path_factory.mktemp("manifest") / "store"))


GROUPS = {"model": {"a": torch.ones(3, 2)}, "optimizer": {}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    return write_checkpoint(Disk(), folder / "checkpoints", 3, GROUPS, {"counters": {}})


@pytest.fixture(scope="module")
def sealed(saved: Path) -> bytes:
    return (saved / "manifest.json").read_bytes()


@given(data=st.data(), true_id=st.booleans())
def test_the_manifest_of_a_store(
    copied: Path, store: Path, data: st.DataObject, true_id: bool
) -> None:
    good = json.loads((store / "manifest.json").read_text())
    if true_id:  # somebody who knows how it is made
        spoiled = data.draw(tables_near(good))
        if isinstance(spoiled, dict):
            with contextlib.suppress(TypeError, LookupError):  # of content that has no id
                spoiled["id"] = content_id(spoiled)
        text = json.dumps(spoiled).encode()
    else:
        text = data.draw(json_near(good))
    (copied / "manifest.json").write_bytes(text)
    held("store manifest", lambda: Store.open(copied))
    held("store manifest", lambda: stores.verify(copied))


def forged(manifest: dict[str, object]) -> bytes:
    try:
        return manifest_bytes(manifest)
    except ValueError:  # what is not finite has no seal: it is no JSON of ours
        return json.dumps(manifest).encode()


@given(data=st.data(), true_seal=st.booleans())
def test_the_manifest_of_a_checkpoint(
    saved: Path, sealed: bytes, data: st.DataObject, true_seal: bool
) -> None:
    path = saved / "manifest.json"
    good = json.loads(sealed)
    if true_seal:
        spoiled = data.draw(tables_near({name: good[name] for name in good if name != "sha256"}))
        text = forged(spoiled)
    else:
        text = data.draw(json_near(good))
    path.write_bytes(text)
    held("checkpoint manifest", lambda: checkpoint.load_newest(saved.parent))
    held("checkpoint manifest", lambda: damage(saved) or extra_files(saved))

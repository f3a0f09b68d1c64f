"""Token files by the writers of Megatron (0.16.1) and datatrove (0.10.1) themselves."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lengthen.data.prepare import prepare
from lengthen.data.store import Store, verify
from tests.data.files import as_lines, write

pytestmark = pytest.mark.hosts
ROOT = Path(__file__).parents[2]
END = 256


@pytest.mark.filterwarnings("ignore")  # Megatron's own
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["uint16", "int32", "int64", "int16", "float32", "float64"])
@pytest.mark.parametrize("marked", [False, True])
def test_what_the_builder_of_megatron_wrote_is_read(
    tmp_path: Path, name: str, marked: bool, in_place: bool
) -> None:
    torch = pytest.importorskip("torch")
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    if in_place and not (marked and name in ("uint16", "int32", "int16")):
        pytest.skip("is copied alone")
    documents = [[[*range(n)], [n, END] if marked else [n]] for n in range(1, 40)]
    builder = IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=np.dtype(name).type)
    for document in documents[:20]:
        for sequence in document:
            builder.add_item(torch.tensor(sequence))
        builder.end_document()
    for document in documents[20:]:
        flat = torch.tensor([token for sequence in document for token in sequence])
        builder.add_document(flat, [len(sequence) for sequence in document])
    builder.finalize(str(tmp_path / "a.idx"))
    out = tmp_path / "store"
    prepare(tmp_path / "a.bin", out, tokenizer="bytes", in_place=in_place, quiet=True)
    assert verify(out) == []
    store = Store.open(out)
    assert store.train.tolist() == [t for n in range(1, 40) for t in [*range(n + 1), END]]
    assert store.manifest.train.documents == 39


def test_the_example_makes_a_store_of_what_datatrove_wrote(tmp_path: Path) -> None:
    texts = [f"{n} cats and {n * n} dogs. " * (n % 7 + 1) for n in range(50)]
    for number in range(2):
        write(tmp_path / f"texts/{number}.jsonl", as_lines(texts[number::2]))
    prepare(tmp_path / "texts", tmp_path / "own", tokenizer="train:400", valid=0, quiet=True)
    example, tokenizer = (
        ROOT / "examples/cluster/datatrove_tokens.py",
        tmp_path / "own/tokenizer.json",
    )
    words: list[str | Path] = [
        sys.executable,
        example,
        tmp_path / "texts",
        tokenizer,
        tmp_path / "out",
    ]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert verify(tmp_path / "out/store") == []
    stores = Store.open(tmp_path / "own"), Store.open(tmp_path / "out/store")
    own, theirs = (sorted(documents_of(store)) for store in stores)
    assert own == theirs  # in another order: datatrove shuffles documents
    assert stores[1].manifest.train.documents == 50


def documents_of(store: Store) -> list[list[int]]:
    tokens = np.asarray(store.train)
    ends = np.flatnonzero(tokens == store.separator) + 1
    return [one.tolist() for one in np.split(tokens, ends)]

"""Files of tokens are read as one array, end to end, however many there are."""

import copy
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lengthen.core.pacing import Linear
from lengthen.data.loader import Loader
from lengthen.data.store import Store, verify
from lengthen.data.stream import StepStream
from lengthen.data.token_row import TokenFile, TokenRow
from lengthen.integrations.data_plan import DataPlan
from lengthen.util.errors import DataError
from tests.data.files import sharded


@st.composite
def rows(draw: st.DrawFn) -> tuple[TokenRow, NDArray[np.uint32]]:
    """Draw some files of tokens, with headers of any length, and the same tokens in one array."""
    dtype = np.dtype(draw(st.sampled_from(["<u2", "<u4"])))
    folder = Path(tempfile.mkdtemp())
    files, tokens = [], np.arange(sum(sizes := draw(st.lists(st.integers(0, 3000), max_size=6))))
    begin = 0
    for number, size in enumerate(sizes):
        offset = dtype.itemsize * draw(st.sampled_from([0, 1, 512]))
        path = folder / f"{number}.bin"
        path.write_bytes(bytes(offset) + tokens[begin : begin + size].astype(dtype).tobytes())
        files.append(TokenFile(path, path.stat().st_size, size, offset))
        begin += size
    return TokenRow(files, dtype.name), tokens.astype(dtype)


@given(drawn=rows(), data=st.data())
def test_many_files_are_read_as_one_array(
    drawn: tuple[TokenRow, NDArray[np.uint32]], data: st.DataObject
) -> None:
    row, array = drawn
    assert (len(row), row.dtype) == (len(array), array.dtype)
    places = st.integers(-len(array) - 2, len(array) + 2)
    for _ in range(4):
        cut = slice(data.draw(places), data.draw(places), data.draw(st.sampled_from([None, 1, 3])))
        assert row[cut].tolist() == array[cut].tolist()
        assert row[cut].dtype == array.dtype
    if len(array):
        at = data.draw(st.integers(-len(array), len(array) - 1))
        assert row[at] == array[at]
        size = data.draw(st.integers(1, len(array)))
        starts = np.array(data.draw(st.lists(st.integers(0, len(array) - size), max_size=9)), int)
        wanted = starts[:, None] + np.arange(size)
        assert row.windows(starts, size).tolist() == array[wanted].tolist()
        assert row[wanted].tolist() == array[wanted].tolist()
    with pytest.raises(IndexError):
        row[len(array)]
    assert row.tolist() == np.asarray(row).tolist() == array.tolist()


@given(cuts=st.lists(st.integers(0, 2000), max_size=5), rows=st.integers(1, 9))
def test_a_run_over_many_files_has_the_batches_of_one_array(cuts: list[int], rows: int) -> None:
    tokens = np.random.default_rng(0).integers(500, size=2000).astype(np.uint16)
    folder = Path(tempfile.mkdtemp())
    files = []
    for number, part in enumerate(np.split(tokens, sorted(cuts))):
        part.tofile(folder / str(number))
        files.append(TokenFile(folder / str(number), part.nbytes, len(part), 0))
    plan = DataPlan(pacing=Linear(start=8, end=64, duration=5), rows=rows, budget=4000)
    one, many = Loader(tokens, 64, 3), Loader(TokenRow(files, "uint16"), 64, 3)
    stream = StepStream(plan.schedule, one.sequences, reuse_after=1)
    state = stream.start
    while step := stream.after(state):
        state = step.after
        for ours, theirs in zip(
            *(of.load(step.blocks, step.plan.length, range(step.plan.rows)) for of in (one, many)),
            strict=True,
        ):
            assert (ours == theirs).all()


def test_a_thousand_files_are_read_where_256_may_be_open(tmp_path: Path) -> None:
    sharded(tmp_path / "store", np.arange(1000 * 70) % 250, shards=1000)
    code = """if True:
        import resource, sys, time
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        import numpy as np
        from lengthen.data.store import Store, verify
        began = time.monotonic()
        store = Store.open(sys.argv[1])
        assert time.monotonic() - began < 1, time.monotonic() - began
        windows = store.train.windows(np.arange(0, 69_000, 17), 100)
        assert (windows == (np.arange(0, 69_000, 17)[:, None] + np.arange(100)) % 250).all()
        assert verify(sys.argv[1]) == []
    """
    subprocess.run([sys.executable, "-c", code, tmp_path / "store"], check=True)


def test_a_window_in_a_thousand_files_costs_at_most_twice_one_in_one_file(tmp_path: Path) -> None:
    seconds = []
    for shards in (1, 1000):
        sharded(tmp_path / str(shards), np.arange(1000 * 70) % 250, shards)
        row = Store.open(tmp_path / str(shards)).train
        assert isinstance(row, TokenRow)
        row.tolist()  # so that all is mapped
        rounds = []
        for start in range(0, 60_000, 70):
            began = time.perf_counter()
            row.windows(np.array([start]), 64)
            rounds.append(time.perf_counter() - began)
        seconds.append(min(rounds))  # what the machine cannot make shorter
    assert seconds[1] < 2 * seconds[0]


def unpickled(row: TokenRow) -> TokenRow:
    copied: TokenRow = pickle.loads(pickle.dumps(row))
    return copied


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, unpickled])
@pytest.mark.parametrize("read", [0, 1500])
def test_a_copy_maps_the_files_itself_and_carries_no_tokens(
    tmp_path: Path, copied: Callable[[TokenRow], TokenRow], read: int
) -> None:
    sharded(tmp_path / "store", np.arange(2000) % 250, shards=2)
    row = Store.open(tmp_path / "store").train
    assert isinstance(row, TokenRow)
    assert len(row[:read]) == read
    assert len(pickle.dumps(row)) < 1000
    assert copied(row)[:].tolist() == [n % 250 for n in range(2000)]


def test_a_file_that_changed_since_the_store_was_opened_is_named_when_it_is_read(
    tmp_path: Path,
) -> None:
    sharded(tmp_path / "store", np.arange(400) % 250, shards=4)
    store = Store.open(tmp_path / "store")
    assert store.train[150] == 150
    os.truncate(tmp_path / "store/2.bin", 10)
    assert store.train[:200].tolist() == [n % 250 for n in range(200)]
    with pytest.raises(DataError, match=r"2\.bin has 10 bytes, should have 200; prepare it again"):
        store.train[199:201]
    (tmp_path / "store/3.bin").unlink()
    with pytest.raises(DataError, match=r"3\.bin no such file"):
        store.train[-1]


def test_verify_names_each_damaged_shard(tmp_path: Path) -> None:
    sharded(tmp_path / "store", np.arange(4000) % 250, shards=8)
    for name in ("1.bin", "6.bin"):
        with (tmp_path / "store" / name).open("r+b") as file:
            file.write(b"\xff")
    os.truncate(tmp_path / "store/4.bin", 10)
    assert verify(tmp_path / "store") == [
        "1.bin sha256 differs in bytes 0 to 999",
        "4.bin has 10 bytes, should have 1000",
        "6.bin sha256 differs in bytes 0 to 999",
    ]

"""A run and its store: whose tokens, how many, and what happens when they change."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.data.open_store import open_store, with_store
from lengthen.data.prepare import prepare
from lengthen.data.store import Store
from lengthen.run.metrics import read_metrics
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError
from tests.conftest import Configure


def test_f38_another_store_of_the_same_size_is_refused_with_both_ids(
    configured: Configure, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text(text.swapcase())
    prepare([tmp_path / "other.txt"], tmp_path / "other", tokenizer="bytes", valid=0.1, quiet=True)
    config = configured(budget={"tokens": 1000})
    train(config, tmp_path / "run", quiet=True)
    own, other = open_store(config).id, Store.open(tmp_path / "other").id
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "run"), "--data.path", str(tmp_path / "other")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert f"has id {other}, the run was trained on {own}" in line


@pytest.mark.parametrize("tokens", [2, 63, 64, 65, 66])
def test_f41_a_corpus_shorter_than_a_sequence_and_its_last_target_is_refused(
    configured: Configure, tmp_path: Path, tokens: int
) -> None:
    (tmp_path / "a.txt").write_text("a" * (tokens - 1))  # and the separator
    prepare([tmp_path / "a.txt"], tmp_path / "store", tokenizer="bytes", valid=0, quiet=True)
    config = configured(
        data={"path": str(tmp_path / "store")}, evaluation={"every_steps": 0, "every_tokens": 0}
    )
    store = open_store(config)
    if tokens > 64:
        assert with_store(config, store).data.store_id == store.id
        return
    with pytest.raises(
        DataError, match=f"has {tokens} tokens, needs at least 65; prepare a longer"
    ):
        with_store(config, store)


@pytest.mark.parametrize("text", ["", "\n"], ids=["empty file", "empty documents alone"])
def test_f41_a_corpus_without_text_makes_no_store(tmp_path: Path, text: str) -> None:
    name = "a.jsonl" if text else "a.txt"
    (tmp_path / name).write_text('{"text": ""}\n' * 3 if text else "")
    with pytest.raises(DataError, match="corpus: has no text"):
        prepare([tmp_path / name], tmp_path / "store", tokenizer="bytes", valid=0, quiet=True)
    assert not (tmp_path / "store").exists()


def test_f39_a_store_of_another_size_is_found_when_a_pass_ends(
    configured: Configure, tmp_path: Path, store: Path
) -> None:
    copied = Path(shutil.copytree(store, tmp_path / "store"))
    config = configured(
        data={"path": str(copied)},
        model={"length": 16},
        batch={"rows": 256, "micro_tokens": 4096},
        pacing={"kind": "constant"},
        budget={"epochs": 2},
    )
    tokens = copied / "train.bin"

    def before(_number: int, name: str, path: Path) -> None:
        if name == "make_directory" and "step-00000003" in path.name:
            with tokens.open("ab") as file:  # a shorter one would end the process by SIGBUS
                file.write(b"\0\0")

    with pytest.raises(DataError, match=r"train\.bin has \d+ bytes, should have"):
        train(config, tmp_path / "run", disk=Disk(before=before), quiet=True)
    steps = read_metrics(tmp_path / "run" / "metrics.jsonl").steps
    assert (
        sum((line.rows or 0) * 16 for line in steps[:-1])
        < Store.open(store).manifest.train.tokens
        <= (steps[-1].tokens or 0) + 16
    )


FOREVER = {"budget": {"tokens": 10**9}, "saving": {"every_steps": 5, "keep": 3}}


@pytest.mark.parametrize("way", ["cut", pytest.param("replaced", marks=pytest.mark.slow)])
def test_f39_a_store_that_is_cut_under_a_run_ends_it_and_a_replaced_one_does_not(
    configured: Configure, tmp_path: Path, store: Path, way: str
) -> None:
    copied = Path(shutil.copytree(store, tmp_path / "store"))
    run, train_bin = tmp_path / "run", copied / "train.bin"
    (tmp_path / "config.toml").write_text(
        configured(data={"path": str(copied)}, **FOREVER).to_toml()
    )
    words = ["train", str(tmp_path / "config.toml"), "--quiet", "--out", str(run)]
    process = subprocess.Popen([sys.executable, "-m", "lengthen", *words], stderr=subprocess.PIPE)
    wait_for_steps(run, 6)
    if way == "cut":
        os.truncate(train_bin, 0)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGBUS
        train_bin.write_bytes((store / "train.bin").read_bytes())
        end = 2000 + (read_metrics(run / "metrics.jsonl").steps[-1].tokens or 0)
        resume(run, settings={"budget": {"tokens": end}}, quiet=True)
        return
    (tmp_path / "new").write_bytes(b"\0" * 10)
    (tmp_path / "new").rename(train_bin)
    before = len(read_metrics(run / "metrics.jsonl").steps)
    wait_for_steps(run, before + 5)  # what was mapped stays what it was
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM


def wait_for_steps(run: Path, count: int) -> None:
    ends = time.monotonic() + 200
    log = run / "metrics.jsonl"
    while not log.exists() or len(read_metrics(log).steps) < count:
        assert time.monotonic() < ends
        time.sleep(0.02)

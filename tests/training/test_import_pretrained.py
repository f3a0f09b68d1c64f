"""A published model becomes a run: it is the same model, and training continues from it."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import list_checkpoints, verify
from lengthen.cli.main import main
from lengthen.config.load import load
from lengthen.config.schema import Tables
from lengthen.data.prepare import prepare
from lengthen.evaluation.generate import sample
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.import_pretrained import import_pretrained
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from lengthen.util.errors import DataError, SettingError, StorageError
from tests.conftest import Configure
from tests.exchange.made import contents

RECIPE = "laptop-2min-baseline"


@pytest.fixture(scope="module")
def trained(configured: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run and, beside it, its export."""
    place = tmp_path_factory.mktemp("trained")
    train(configured(budget={"tokens": 5000}), place / "run", quiet=True)
    export(place / "run", place / "hf")
    return place


@pytest.fixture
def hf(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "hf", tmp_path / "hf"))


def asked(store: Path, **tables: Tables) -> Tables:
    """What the command line gives for --data, and a budget of four steps."""
    short = {"budget": {"tokens": 1024}, "batch": {"rows": 4}, "evaluation": {"every_steps": 2}}
    return {"data": {"path": str(store)}, "run": {"device": "cpu"}, **short, **tables}


def test_an_imported_run_is_the_same_model_and_exports_again_to_the_last_bit(
    trained: Path, hf: Path, tmp_path: Path
) -> None:
    import_pretrained(hf, tmp_path / "run")
    before, after = read(trained / "run"), read(tmp_path / "run")
    assert after.shape == before.shape
    assert all(torch.equal(after.weights[n], t) for n, t in before.weights.items())
    export(tmp_path / "run", tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (hf / name).read_bytes()


def test_what_was_not_trained_here_does_not_claim_to_be(hf: Path, tmp_path: Path) -> None:
    import_pretrained(hf, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "again")
    text = (tmp_path / "again/README.md").read_text(encoding="utf-8")
    assert "| began with the weights of | hf |" in text
    assert "| trained tokens | 0 |" in text
    assert "not measured" in text
    assert "learning" not in text


def test_an_imported_run_can_be_verified_and_sampled(
    trained: Path, hf: Path, tmp_path: Path
) -> None:
    import_pretrained(hf, tmp_path / "run")
    assert verify(tmp_path / "run") == ["checkpoint step-00000000: every byte as its manifest says"]
    texts = {
        "".join(sample(path, prompt="the ", tokens=20, seed=1))
        for path in (trained / "run", hf, tmp_path / "run")
    }
    assert len(texts) == 1


def test_training_continues_from_the_weights_of_the_folder(
    trained: Path, hf: Path, store: Path, tmp_path: Path
) -> None:
    import_pretrained(hf, tmp_path / "run", recipe=RECIPE, settings=asked(store))
    summary = resume(tmp_path / "run", quiet=True)
    assert summary.steps == 4
    metrics = read_metrics(tmp_path / "run/metrics.jsonl")
    # The loss of a new model would be log 257 = 5.5; this one has learned something.
    learned = read_metrics(trained / "run/metrics.jsonl").evaluations[-1].loss
    first, before = metrics.steps[0].loss, learned
    assert first is not None
    assert before is not None
    assert abs(first - before) < 0.2
    assert [event.name for event in metrics.events][:2] == ["imported", "resumed"]
    assert not [event for event in metrics.events if event.name == "note"]


def test_continuing_is_as_exact_as_any_resume(hf: Path, store: Path, tmp_path: Path) -> None:
    overrides = asked(store, saving={"every_steps": 1})
    for name in ("whole", "broken"):
        import_pretrained(hf, tmp_path / name, recipe=RECIPE, settings=overrides)
        resume(tmp_path / name, quiet=True)
    resume(tmp_path / "broken", checkpoint="step-00000003", quiet=True)
    folders = (tmp_path / name / "checkpoints" for name in ("whole", "broken"))
    ends = [checkpoint.load_newest(folder)[0] for folder in folders]
    assert ends[0].step == ends[1].step == 4
    for group in ("model", "optimizer"):
        for name, tensor in ends[0].tensors[group].items():
            assert torch.equal(ends[1].tensors[group][name], tensor)


def test_a_launcher_can_continue_it_by_train(
    hf: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    import_pretrained(hf, run, recipe=RECIPE, settings=asked(store))
    words = ["train", str(run / "config.toml"), "--out", str(run), "--resume", "auto", "--quiet"]
    assert main(words) == 0
    assert "steps            4" in capsys.readouterr().out


def test_the_folder_decides_the_model_and_the_recipe_the_rest(
    hf: Path, store: Path, tmp_path: Path
) -> None:
    overrides = asked(store, model={"dropout": 0.2})
    import_pretrained(hf, tmp_path / "run", recipe=RECIPE, settings=overrides)
    config = load(str(tmp_path / "run/config.toml"))[0]
    shape = config.model
    assert (shape.layers, shape.width, shape.heads, shape.length) == (1, 16, 2, 64)
    assert (shape.vocabulary, shape.dropout) == (257, 0.2)
    assert config.optimizer.learning_rate == 3e-3
    assert config.budget.tokens == 1024
    with pytest.raises(SettingError, match="model.width: is decided by the folder, got 64"):
        import_pretrained(
            hf, tmp_path / "b", recipe=RECIPE, settings=asked(store, model={"width": 64})
        )


def test_float64_weights_make_a_float64_run(tmp_path: Path, configured: Configure) -> None:
    config = configured(budget={"tokens": 600}, run={"precision": "fp64"})
    train(config, tmp_path / "old", quiet=True)
    export(tmp_path / "old", tmp_path / "hf")
    store = Path(str(config.data.path))
    import_pretrained(tmp_path / "hf", tmp_path / "run", recipe=RECIPE, settings=asked(store))
    assert load(str(tmp_path / "run/config.toml"))[0].run.precision == "fp64"
    before, after = read(tmp_path / "old"), read(tmp_path / "run")
    assert all(torch.equal(after.weights[n], t) for n, t in before.weights.items())


def test_a_run_without_a_store_says_so_when_it_is_to_be_trained(
    hf: Path, store: Path, tmp_path: Path
) -> None:
    import_pretrained(hf, tmp_path / "run")
    before = contents(tmp_path / "run")
    imported = (
        "RUN: was imported without a token store, so it cannot be trained on; import it again"
    )
    for overrides in ({}, {"data": {"path": str(store)}}):
        with pytest.raises(SettingError, match=imported):
            resume(tmp_path / "run", settings=overrides, quiet=True)
    assert contents(tmp_path / "run") == before


# The tokenizer


@pytest.fixture(scope="module")
def trained_tokenizer(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    """A store of the size of the tiny one, whose tokenizer has other tokens."""
    place = tmp_path_factory.mktemp("other")
    (place / "text.txt").write_text(text, encoding="utf-8")
    out = place / "store"
    prepare([str(place / "text.txt")], out, tokenizer="train:300", valid=0.1, quiet=True)
    return out


def test_another_tokenizer_than_the_stores_is_refused(
    hf: Path, trained_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="its tokenizer is not that of the folder") as caught:
        import_pretrained(hf, tmp_path / "run", recipe=RECIPE, settings=asked(trained_tokenizer))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_the_same_size_with_two_tokens_swapped_is_refused(
    hf: Path, store: Path, tmp_path: Path
) -> None:
    spelled = json.loads((hf / "tokenizer.json").read_bytes())
    tokens = spelled["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    (hf / "tokenizer.json").write_text(json.dumps(spelled), encoding="utf-8")
    with pytest.raises(DataError, match="tokens differ"):
        import_pretrained(hf, tmp_path / "run", recipe=RECIPE, settings=asked(store))


def test_a_tokenizer_that_leaves_out_the_merging_is_refused(
    hf: Path, store: Path, tmp_path: Path
) -> None:
    spelled = json.loads((hf / "tokenizer.json").read_bytes())
    spelled["model"]["ignore_merges"] = True
    (hf / "tokenizer.json").write_text(json.dumps(spelled), encoding="utf-8")
    with pytest.raises(DataError, match="options differ"):
        import_pretrained(hf, tmp_path / "run", recipe=RECIPE, settings=asked(store))


def test_the_same_tokenizer_may_be_spelled_otherwise(hf: Path, store: Path, tmp_path: Path) -> None:
    """As the hub has GPT-2's: with a post-processor, other offsets and an explicit nothing."""
    spelled = json.loads((hf / "tokenizer.json").read_bytes())
    spelled["post_processor"] = {**spelled["pre_tokenizer"], "trim_offsets": False}
    spelled["pre_tokenizer"]["trim_offsets"] = not spelled["pre_tokenizer"]["trim_offsets"]
    spelled["model"]["continuing_subword_prefix"] = ""
    spelled["added_tokens"][0]["normalized"] = True
    (hf / "tokenizer.json").write_text(json.dumps(spelled), encoding="utf-8")
    import_pretrained(hf, tmp_path / "run", recipe=RECIPE, settings=asked(store))
    assert RunPaths(tmp_path / "run").config.is_file()


# Mistakes and faults


def without_separator(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")


TRAINED = f"--data STORE --recipe {RECIPE}"
OVER_LENGTH = "--pacing.kind linear --pacing.start 65 --pacing.duration 9"
MISTAKES: dict[str, tuple[int, str, str]] = {
    "no recipe": (2, "--recipe: is missing", "--data STORE"),
    "no such recipe": (2, "no such recipe", "--data STORE --recipe gpt5"),
    "no store there": (3, "no token store", f"--data nowhere --recipe {RECIPE}"),
    "a start over the length": (2, "pacing.start: must be", f"{TRAINED} {OVER_LENGTH}"),
    "a setting of the model": (2, "is decided by the folder", "--model.length 32"),
    "a budget under a step": (2, "budget.tokens: must be at", f"{TRAINED} --budget.tokens 1"),
    "no such option": (2, "did you mean '--recipe'?", "--recip x"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    hf: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, words, options = MISTAKES[name]
    before = contents(tmp_path)
    given = [str(store) if option == "STORE" else option for option in options.split()]
    assert main(["import", str(hf), "--out", str(tmp_path / "run"), *given]) == code
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.startswith("lengthen: ")
    assert errors.count("\n") == 1, errors
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_read_leaves_nothing_behind(
    hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_separator(hf)
    assert main(["import", str(hf), "--out", str(tmp_path / "run")]) == 3
    assert main(["import", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 3
    errors = capsys.readouterr().err
    assert errors.count("lengthen: ") == errors.count("\n") == 2
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_is_replaced_only_when_asked(
    trained: Path, hf: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    before = contents(run)
    with pytest.raises(SettingError, match="--out"):
        import_pretrained(hf, run)
    assert contents(run) == before
    import_pretrained(hf, run, overwrite=True)
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000000"]


def test_a_fault_at_every_single_operation_leaves_a_whole_run_or_none(
    hf: Path, tmp_path: Path
) -> None:
    for fault in range(1, 100):
        run = tmp_path / f"run{fault}"

        def fail(number: int, name: str, path: Path, at: int = fault) -> None:
            if number == at:
                raise OSError(errno.ENOSPC, "full")

        try:
            import_pretrained(hf, run, disk=Disk(before=fail))
        except StorageError:
            if (run / "config.toml").exists():
                verify(run)
            import_pretrained(hf, run, overwrite=True)  # and the place is good for another try
            verify(run)
        else:
            break
    assert fault > 10

"""`lengthen eval`: models side by side, results that are kept, mistakes in one line."""

import json
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lengthen.cli.main import main
from lengthen.config.load import load
from lengthen.data.prepare import prepare
from lengthen.data.store import Store
from lengthen.evaluation import models
from lengthen.evaluation.evaluate import TASKS
from lengthen.evaluation.models import EvalModel, EvalOptions, NamedModel
from lengthen.evaluation.results import Outcome, add, read
from lengthen.evaluation.tables import figure
from lengthen.exchange.export import export
from lengthen.model.gpt import GPT
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from tests.conftest import Configure

WORDS = ["seven", "wizards", "box", "a", "lazy", "dog"]


@pytest.fixture(scope="module")
def trained(configured: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two checkpoints and the export of its end."""
    folder = tmp_path_factory.mktemp("eval")
    config = configured(budget={"tokens": 1500}, saving={"every_steps": 4, "keep": 9})
    train(config, folder / "run", quiet=True)
    export(folder / "run", folder / "hf")
    return folder


@pytest.fixture
def made(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, with the sets that a test needs."""
    folder = Path(shutil.copytree(trained, tmp_path / "made"))
    sets = folder / "sets"
    sets.mkdir()
    rows = [{"text": f"the quick brown fox jumps over the {word}"} for word in WORDS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (sets / "lambada.jsonl").write_text(lines, encoding="utf-8")
    text = " = Dog = \n \n" + "A lazy dog , seven wizards , a box . \n" * 20
    (sets / "wiki.test.raw").write_text(text, encoding="utf-8")
    return folder


def asked(made: Path, *words: str) -> int:
    return main(["eval", *words, "--sets", str(made / "sets")])


def values(file: Path, task: str) -> dict[str, float]:
    (found,) = [one for one in read(file) if one.outcome.task == task]
    return {measure.name: measure.value for measure in found.outcome.measures}


def test_results_are_shown_and_kept_beside_the_run(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made / "run"
    assert asked(made, str(run), "--tasks", "valid,lambada,wikitext103") == 0
    out = capsys.readouterr().out
    file = run / "evaluations.json"
    assert [one.outcome.task for one in read(file)] == ["valid", "lambada", "wikitext103"]
    assert {(one.model, one.step, one.precision) for one in read(file)} == {(None, 9, "fp32")}
    for part in ("lambada accuracy", "valid loss", "wikitext103 word perplexity", "chance", "±"):
        assert part in out
    assert f"{values(file, 'valid')['loss']:.1f}" in out
    assert out.splitlines()[-1] == str(file)


def test_f56_all_is_every_task_whose_set_is_there(made: Path) -> None:
    assert asked(made, str(made / "run"), "--tasks", "all") == 0
    found = {one.outcome.task for one in read(made / "run/evaluations.json")}
    assert found == {"valid", "lambada", "wikitext103"}


def test_a_run_and_its_export_stand_side_by_side_and_are_alike(
    made: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(made / "run"), str(made / "hf"), "--tasks", "valid,lambada"]
    assert asked(made, *words, "--data", str(store)) == 0
    run, hf = made / "run/evaluations.json", made / "hf.evaluations.json"
    for task in ("valid", "lambada"):
        assert values(run, task) == values(hf, task)
    assert capsys.readouterr().out.splitlines()[-2:] == [str(run), str(hf)]


def test_a_checkpoint_is_taken_as_it_was(made: Path) -> None:
    newest, first = made / "run", made / "run/checkpoints/step-00000000"
    assert asked(made, str(newest), str(first), "--tasks", "valid") == 0
    by_step = {one.step: one.outcome.measures[0].value for one in read(newest / "evaluations.json")}
    assert by_step.keys() == {0, 9}
    assert by_step[0] > by_step[9]


def test_a_file_that_is_named_takes_the_results_of_all(made: Path) -> None:
    out = made / "all.json"
    words = [str(made / "run"), str(made / "hf"), "--tasks", "lambada", "--out", str(out)]
    assert asked(made, *words) == 0
    assert [one.model for one in read(out)] == ["run", "hf"]
    assert not (made / "run/evaluations.json").exists()


def test_options_are_kept_where_a_task_reads_them(made: Path) -> None:
    words = ["--tasks", "valid,lambada,wikitext103", "--limit", "2", "--stride", "16"]
    assert asked(made, str(made / "run"), *words, "--shots", "1", "--seed", "5") == 0
    found = {one.outcome.task: one.options for one in read(made / "run/evaluations.json")}
    assert found == {
        "valid": {"limit": 2},
        "lambada": {"limit": 2, "shots": 1, "seed": 5},
        "wikitext103": {"limit": 2, "stride": 16},
    }


def test_ctrl_c_loses_nothing_that_was_finished(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(model: EvalModel, options: EvalOptions) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setitem(TASKS, "lambada", interrupted)
    assert asked(made, str(made / "run"), "--tasks", "valid,lambada,wikitext103") == 130
    file = made / "run/evaluations.json"
    assert [one.outcome.task for one in read(file)] == ["valid"]
    out, err = capsys.readouterr()
    assert "valid loss" in out
    assert out.splitlines()[-1] == str(file)
    assert err.endswith("lengthen: interrupted\n")


def test_a_full_memory_is_one_line(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(model: EvalModel, options: EvalOptions) -> Outcome:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setitem(TASKS, "lambada", full)
    assert asked(made, str(made / "run"), "--tasks", "lambada") == 7
    assert "lengthen: out of memory: lambada with micro-batches" in capsys.readouterr().err


def test_so_is_a_device_that_is_too_full_for_the_model(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(GPT, "to", full)
    assert asked(made, str(made / "run"), "--tasks", "lambada") == 7
    error = capsys.readouterr().err
    assert error.startswith("lengthen: out of memory: loading run; ")
    assert error.count("\n") == 1


def test_a_model_is_let_go_ahead_of_the_next(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[weakref.ref[GPT]] = []

    def watched(named: NamedModel, precision: str | None) -> EvalModel:
        assert all(model() is None for model in gone)
        model = models.load(named, precision)
        gone.append(weakref.ref(model.gpt))
        return model

    monkeypatch.setattr("lengthen.evaluation.evaluate.load", watched)
    asked(made, str(made / "run"), str(made / "hf"), "--tasks", "lambada")
    assert len(gone) == 2


@pytest.mark.filterwarnings("ignore")
def test_tasks_of_lm_eval_are_shown_and_kept_like_ours(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goals = [{"goal": str(n), "sol1": "fox", "sol2": "dog", "label": n % 2} for n in range(6)]
    (made / "sets/piqa.jsonl").write_text("\n".join(map(json.dumps, goals)), encoding="utf-8")
    words = ["--tasks", "piqa", "--shots", "1", "--seed", "3", "--limit", "4"]
    assert asked(made, str(made / "run"), *words) == 0
    (result,) = read(made / "run/evaluations.json")
    assert result.options == {"limit": 4, "shots": 1, "seed": 3}
    assert list(values(made / "run/evaluations.json", "piqa")) == ["acc", "acc_norm"]
    assert "piqa (limit 4, shots 1, seed 3) acc_norm" in capsys.readouterr().out


def test_a_new_run_in_the_place_of_an_old_one_has_no_results(
    made: Path, configured: Configure
) -> None:
    assert asked(made, str(made / "run"), "--tasks", "valid") == 0
    train(configured(budget={"tokens": 600}), made / "run", overwrite=True, quiet=True)
    assert not (made / "run/evaluations.json").exists()


@pytest.fixture
def other_store(made: Path) -> Path:
    """A store of the same tokenizer, with another text."""
    (made / "text.txt").write_text("two wizards box over the lazy dog\n" * 900, encoding="utf-8")
    prepare([str(made / "text.txt")], made / "other", tokenizer="bytes", valid=0.2, quiet=True)
    return made / "other"


def rows(out: str, task: str) -> dict[str, list[str]]:
    """The figures of a task in a printed table, by the name of the row."""
    found = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    return {cells[0]: cells[1:] for cells in found if cells[0].startswith(task)}


def test_models_on_different_texts_never_share_a_row(
    made: Path, other_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = made / "run", Path(shutil.copytree(made / "run", made / "second"))
    assert main(["eval", str(first), "--tasks", "valid", "--data", str(other_store)]) == 0
    assert main(["eval", str(second), "--tasks", "valid"]) == 0
    capsys.readouterr()
    assert main(["report", str(first), str(second)]) == 0
    shown = rows(capsys.readouterr().out, "valid")
    losses = {name: row for name, row in shown.items() if name.endswith(") loss")}
    assert len(losses) == 2
    (one, other) = losses.values()
    assert (one[1], other[0]) == ("-", "-")
    assert one[0] != other[1]
    ids = [Store.open(path).id[:8] for path in (other_store, bound_store(first))]
    assert list(losses) == [f"valid (store {name}) loss" for name in ids]
    # One model on both texts keeps both figures, in rows of their own.
    assert main(["eval", str(first), "--tasks", "valid"]) == 0
    found = {one.question["store id"]: one for one in read(first / "evaluations.json")}
    assert sorted(name[:8] for name in found) == sorted(ids)


def bound_store(run: Path) -> Path:
    path = load(str(run / "config.toml"))[0].data.path
    assert path is not None
    return Path(path)


def test_models_whose_own_stores_differ_are_shown_apart_by_eval(
    made: Path, other_store: Path, configured: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    train(
        configured(data={"path": str(other_store)}, budget={"tokens": 600}), made / "b", quiet=True
    )
    capsys.readouterr()
    assert main(["eval", str(made / "run"), str(made / "b"), "--tasks", "valid"]) == 0
    losses = [n for n in rows(capsys.readouterr().out, "valid") if n.endswith(") loss")]
    assert len(losses) == 2


def test_a_set_of_other_rows_is_another_question(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(made / "run")
    assert asked(made, run, "--tasks", "lambada,wikitext103") == 0
    text = (made / "sets/lambada.jsonl").read_text(encoding="utf-8")
    (made / "sets/lambada.jsonl").write_text(text.replace("lazy", "busy"), encoding="utf-8")
    (made / "sets/wiki.test.raw").write_text("A busy dog . \n" * 20, encoding="utf-8")
    assert asked(made, run, "--tasks", "lambada,wikitext103") == 0
    capsys.readouterr()
    assert main(["report", run]) == 0
    out = capsys.readouterr().out
    for measure in ("lambada (set", "wikitext103 (set"):
        assert (
            len(
                [
                    name
                    for name in rows(out, measure)
                    if "accuracy" in name or "word perplexity" in name
                ]
            )
            == 2
        )


def test_a_resume_from_an_earlier_checkpoint_drops_what_is_known_of_later_ones(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made / "run"
    for model in (*sorted(run.glob("checkpoints/*"))[1:3], run):
        assert main(["eval", str(model), "--tasks", "valid"]) == 0
    old = {one.step: one for one in read(run / "evaluations.json")}
    assert set(old) == {4, 8, 9}
    assert len({one.weights for one in old.values()}) == 3
    resume(
        run,
        checkpoint="step-00000004",
        settings={"optimizer": {"learning_rate": 1e-4, "min_learning_rate": 1e-5}},
        quiet=True,
    )
    assert [one.step for one in read(run / "evaluations.json")] == [4]
    assert [one.step for one in read(run / "evaluations.discarded.json")] == [8, 9]
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    (row,) = [
        row for name, row in rows(capsys.readouterr().out, "valid").items() if name == "valid loss"
    ]
    assert row[0].startswith(figure(old[4].outcome.measures[0].value)[:4])
    # An evaluation that was under way meanwhile: its weights are not those of the checkpoint.
    add(Disk(), run / "evaluations.json", old[9])
    assert main(["report", str(run)]) == 0
    out, err = capsys.readouterr()
    assert err.endswith("evaluations.json: 1 of weights that the run has no more; left out\n")
    assert {row[0] for row in rows(out, "checkpoint").values()} == {"4"}
    # And one of the new weights takes its place.
    assert main(["eval", str(run), "--tasks", "valid"]) == 0
    assert [one.step for one in read(run / "evaluations.json")] == [4, 9]
    assert read(run / "evaluations.discarded.json")[2:] == (old[9],)


def test_a_resume_leaves_a_results_file_alone_that_is_not_ours(made: Path) -> None:
    (made / "run/evaluations.json").write_text("my notes", encoding="utf-8")
    resume(made / "run", checkpoint="step-00000004", quiet=True)
    assert (made / "run/evaluations.json").read_text(encoding="utf-8") == "my notes"


def test_an_export_written_anew_has_no_results_of_its_old_weights(made: Path) -> None:
    hf, run = made / "hf", made / "run"
    assert asked(made, str(hf), "--tasks", "lambada") == 0
    shutil.rmtree(hf)
    export(run, hf, checkpoint="step-00000004")
    assert asked(made, str(hf), "--tasks", "wikitext103") == 0
    assert [one.outcome.task for one in read(made / "hf.evaluations.json")] == ["wikitext103"]


def damaged(made: Path) -> list[str]:
    for weights in made.glob("run/checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])
    return [str(made / "run"), "--tasks", "valid"]


def with_other_tokenizer(made: Path) -> list[str]:
    (made / "text.txt").write_text("some words " * 3000, encoding="utf-8")
    out = made / "other"
    prepare([str(made / "text.txt")], out, tokenizer="train:300", valid=0.2, quiet=True)
    return [str(made / "run"), "--tasks", "valid", "--data", str(out)]


def empty_set(made: Path) -> list[str]:
    (made / "sets/lambada.jsonl").write_bytes(b"")
    return [str(made / "run"), "--tasks", "lambada"]


def stranger(made: Path) -> list[str]:
    (made / "run/evaluations.json").write_text("my notes", encoding="utf-8")
    return [str(made / "run"), "--tasks", "valid"]


def on(model: str, *words: str) -> Callable[[Path], list[str]]:
    return lambda made: [str(made / model), *words]


MISTAKES: list[tuple[Callable[[Path], list[str]], int, str]] = [
    (on("run", "--tasks", "valdi"), 2, "--tasks: no such task, got 'valdi'; did you mean 'valid'?"),
    (on("run", "--tasks", ","), 2, "--tasks: names none, got ','; one of valid, "),
    (on("run", "--tasks", "piqa"), 2, "--sets: no set piqa: it is not in"),
    (on("run", "--tasks", "lambada", "--limit", "0"), 2, "--limit: must be at least 1, got 0"),
    (on("run", "--tasks", "wikitext103", "--stride", "65"), 2, "--stride: must be at most the"),
    (on("hf", "--tasks", "valid"), 2, "--data: must name the token store that `valid` needs"),
    (on("run", "--tasks", "valid", "--data", "none"), 3, "store none: no token store is there"),
    (on("nothing", "--tasks", "valid"), 2, "RUN: must be a run, a checkpoint of one, or"),
    (
        on("run/checkpoints/step-00000007", "--tasks", "valid"),
        4,
        "checkpoint step-00000007: not in",
    ),
    (damaged, 4, "no usable checkpoint in"),
    (with_other_tokenizer, 3, "its tokenizer is not that of run (tokens differ); name one"),
    (empty_set, 3, "lambada.jsonl: is empty"),
    (
        stranger,
        3,
        "holds no evaluations of this version (as a whole: Invalid JSON",
    ),
]


@pytest.mark.parametrize(("make", "code", "message"), MISTAKES)
def test_a_mistake_is_one_line(
    make: Callable[[Path], list[str]],
    code: int,
    message: str,
    made: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert asked(made, *make(made)) == code
    out, err = capsys.readouterr()
    *before, line = err.splitlines()
    assert line.startswith("lengthen: ")
    assert message in line
    # A model is named before a task begins that refuses it.
    assert all("lengthen: run (8,448 parameters): " in one for one in before)
    assert out == ""


def test_one_file_cannot_be_the_set_of_several_tasks(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = made / "sets/lambada.jsonl"
    words = ["eval", str(made / "run"), "--sets", str(file), "--tasks"]
    assert main([*words, "lambada,piqa"]) == 2
    assert "--sets: must be a folder, since 2 tasks have a set" in capsys.readouterr().err
    assert main([*words, "lambada"]) == 0


def test_f56_a_mistake_is_found_ahead_of_any_work(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untouched(*_: object) -> None:
        raise AssertionError("nothing may be written")

    monkeypatch.setattr(Disk, "replace_file", untouched)
    assert asked(made, str(made / "run"), "--tasks", "valid,piqa") == 2
    assert asked(made, str(made / "run"), str(made / "hf"), "--tasks", "lambada,valid") == 2

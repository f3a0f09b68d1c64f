"""In a Trainer of Transformers: the same tokens as in our own trainer, the same after a resume."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    default_data_collator,
)

from lengthen.analysis.summary import first_at_or_below, summarise
from lengthen.cli.main import main
from lengthen.core.pacing import Constant, Doubling, Fixed, Linear
from lengthen.experiments.compare.verdicts import verdicts
from lengthen.integrations.arguments import REQUIRED, check_arguments
from lengthen.integrations.plain import BatchStream
from lengthen.integrations.transformers import LengthenDataset
from lengthen.reporting.gather import gather
from lengthen.reporting.losses import final_losses
from lengthen.reporting.text import lines
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.records import StepRecord, to_json
from lengthen.util.errors import CheckpointError, SettingError
from tests.conftest import Configure, trainer_of
from tests.integrations import reference
from tests.integrations.hosted import (
    PLAN,
    RATE,
    RIGHT,
    Hosted,
    arguments,
    hosted,
    in_float64,
    llama,
    micro_batches_of,
    rank,
)
from tests.integrations.hosted import main as one_rank
from tests.integrations.reference import Rows

SAME = ("step", "tokens", "length", "rows", "joined", "lr")
MEASURED = ("loss", "loss_ratio", "grad_norm", "variance_norm", "variance_max")


def steps(out: Path) -> list[StepRecord]:
    return read_metrics(RunPaths(out / "run").metrics).steps


def by_step(seen: list[Any], count: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """Lay the micro-batches of every step end to end: its inputs, its targets."""
    parts = iter(seen)
    while step := list(islice(parts, count)):
        yield [row for part in step for row in part[0]], [row for part in step for row in part[1]]


# The same tokens


@pytest.mark.parametrize(
    ("pacing", "hold", "leftovers"),
    [
        (PLAN.pacing, "rows", "requeue"),
        (PLAN.pacing, "rows", "drop"),
        (Linear(start=8, end=64, duration=6), "tokens", "requeue"),
        (Doubling(start=8, end=64, duration=6), "tokens", "in_place"),
        (Linear(of="rows", start=1, end=10, duration=8, multiple=1), "rows", "requeue"),
        (Constant(end=64), "rows", "requeue"),
    ],
    ids=["linear", "drop", "tokens", "in place", "rows", "baseline"],
)
def test_every_step_is_that_of_our_own_trainer_to_the_token(
    configured: Configure, store: Path, tmp_path: Path, pacing: Fixed, hold: Any, leftovers: Any
) -> None:
    plan = replace(PLAN, pacing=pacing, full_length=64, hold=hold, leftovers=leftovers)
    config = configured(
        pacing={name: getattr(pacing, name) for name in vars(pacing)} | {"kind": pacing.kind},
        batch={"rows": 10, "hold": hold, "leftovers": leftovers, "micro_tokens": 128},
        optimizer={"learning_rate": RATE, "min_learning_rate": 0.0},
        budget={"tokens": plan.budget},
        evaluation={"every_steps": 0, "probe_every_steps": 0},
    )
    ours = trainer_of(config)
    trained: list[Rows] = [([], [])]

    def look(_: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        for rows, part in zip(trained[-1], batch[:2], strict=True):
            rows.extend(part.tolist())

    ours.module.register_forward_pre_hook(look)
    records: list[StepRecord] = []
    while record := ours.step():
        records.append(record)
        trained.append(([], []))

    theirs = hosted(store, tmp_path, plan)
    seen = micro_batches_of(theirs.model)
    theirs.trainer.train()
    assert list(by_step(seen, count=4)) == trained[:-1]
    logged = steps(tmp_path)
    for name in SAME:
        assert [getattr(step, name) for step in logged] == pytest.approx(
            [getattr(step, name) for step in records]
        )
    assert all(getattr(step, name) is not None for step in logged[1:] for name in MEASURED)
    assert theirs.callback.state()["attributes"]["ledger"] == ours.train_state.ledger.state()


class Gradients(TrainerCallback):
    """Keeps the gradient of every update."""

    def __init__(self) -> None:
        self.kept: list[list[Tensor]] = []

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **met: Any
    ) -> None:
        self.kept.append([parameter.grad.clone() for parameter in met["model"].parameters()])


@pytest.mark.parametrize("rows", [3, 10])
def test_a_step_has_the_gradient_of_its_mean_loss_over_tokens(
    store: Path, tmp_path: Path, rows: int
) -> None:
    plan = replace(PLAN, rows=rows, budget=rows * 200)
    kept = Gradients()
    # Without clipping, and with a rate of 0: all steps have the same weights.
    theirs = hosted(store, tmp_path, plan, rate=0.0, max_grad_norm=0)
    theirs.trainer.add_callback(kept)
    theirs.trainer.train()
    model = llama()
    stream = BatchStream(theirs.dataset.store.train, plan)
    for (step, ((inputs, targets, _, share),)), logged, gradient in zip(
        stream, steps(tmp_path), kept.kept, strict=True
    ):
        logits = model(input_ids=inputs).logits
        total = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum"
        )
        loss = total / step.plan.tokens
        model.zero_grad()
        torch.autograd.backward(loss)
        assert share == 1.0
        assert logged.loss == pytest.approx(loss.item(), rel=1e-6)
        for parameter, other in zip(model.parameters(), gradient, strict=True):
            torch.testing.assert_close(parameter.grad, other, rtol=0, atol=1e-6)


# Resume


def measured(out: Path) -> list[dict[str, Any]]:
    """Return all lines without what a clock says."""
    records = read_metrics(RunPaths(out / "run").metrics).records
    return [{k: v for k, v in to_json(one).items() if not k.endswith("seconds")} for one in records]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_resumed_is_the_unbroken_run_to_the_bit(
    store: Path, tmp_path: Path, workers: int
) -> None:
    settings: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 6,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "dataloader_num_workers": workers,
    }

    def host(out: Path) -> Hosted:
        return hosted(store, out, model=llama(attention_dropout=0.2), **settings)

    unbroken = host(tmp_path / "one")
    unbroken.trainer.train()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    resumed = host(tmp_path / "two")
    seen = micro_batches_of(resumed.model)
    resumed.trainer.train(resume_from_checkpoint=str(tmp_path / "two" / "checkpoint-6"))

    steps_in_all = unbroken.dataset.number_of_steps
    assert resumed.trainer.state.global_step == steps_in_all
    assert len(seen) == 4 * (steps_in_all - 6)
    weights = zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in weights)
    assert measured(tmp_path / "one") == measured(tmp_path / "two")
    assert RunPaths(tmp_path / "two" / "run").discarded.is_file()


def test_a_checkpoint_holds_the_ledger_of_the_last_trained_step(
    store: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"save_steps": 5, "max_steps": 6, "dataloader_num_workers": 1}
    host = hosted(store, tmp_path, save_strategy="steps", **options)
    host.trainer.train()
    state = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["LengthenCallback"]["attributes"]
    stream = BatchStream(host.dataset.store.train, PLAN)
    _ = list(islice(stream, 5))
    assert {name: saved[name] for name in stream.state_dict()} == stream.state_dict()


@pytest.fixture(scope="module")
def broken_off(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after 4 steps, saved."""
    out = tmp_path_factory.mktemp("stopped")
    hosted(store, out, save_strategy="steps", save_steps=4, max_steps=4).trainer.train()
    return out


def test_a_run_goes_on_to_a_larger_budget(store: Path, broken_off: Path, tmp_path: Path) -> None:
    out = tmp_path / "on"
    shutil.copytree(broken_off, out)
    plan = replace(PLAN, budget=7_000, decay_tokens=6_000)
    hosted(store, out, plan).trainer.train(resume_from_checkpoint=str(out / "checkpoint-4"))
    assert 6_000 < (steps(out)[-1].tokens or 0) <= 7_000
    assert "tokens = 7000" in RunPaths(out / "run").config.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: the checkpoint has 0, got 1; a run keeps its plan"),
        ({"rows": 11}, "rows: the checkpoint has 10, got 11"),
        ({"budget": 7_000}, "decay_tokens: the checkpoint has 6000, got 7000"),
    ],
)
def test_a_resume_of_another_course_is_refused(
    store: Path, broken_off: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    trainer = hosted(store, tmp_path, replace(PLAN, **changes)).trainer
    with pytest.raises(SettingError, match=message):
        trainer.train(resume_from_checkpoint=str(broken_off / "checkpoint-4"))


def test_a_checkpoint_that_the_callback_was_not_in_is_refused(
    store: Path, broken_off: Path, tmp_path: Path
) -> None:
    shutil.copytree(broken_off / "checkpoint-4", tmp_path / "checkpoint-4")
    path = tmp_path / "checkpoint-4" / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stateful_callbacks": {}}))
    with pytest.raises(CheckpointError, match="saved at step 4, with a ledger of step None"):
        hosted(store, tmp_path).trainer.train(resume_from_checkpoint=str(path.parent))


def test_a_directory_with_another_run_is_refused_and_left_as_it_is(
    store: Path, broken_off: Path, tmp_path: Path
) -> None:
    shutil.copytree(broken_off / "run", tmp_path / "run")
    with pytest.raises(SettingError, match="out: must be a new directory, this one has metrics"):
        hosted(store, tmp_path).trainer.train()
    assert steps(tmp_path) == steps(broken_off)


# What is recorded


class Poison(TrainerCallback):
    """Spoils the loss of the third step, and keeps its gradient from the weights."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **met: Any
    ) -> None:
        def spoil(_: nn.Module, __: tuple[()], output: Any) -> Any:
            if state.global_step == 2:
                output["loss"] = output["loss"] * float("nan")
            return output

        met["model"].register_forward_hook(spoil)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **met: Any
    ) -> None:
        if state.global_step == 2:
            met["model"].zero_grad()


@pytest.mark.parametrize("hidden", [True, False])
def test_a_loss_that_is_not_finite_is_recorded_as_it_is_and_so_are_those_after_it(
    store: Path, tmp_path: Path, hidden: bool
) -> None:
    host = hosted(store, tmp_path, max_steps=4, max_grad_norm=0, logging_nan_inf_filter=hidden)
    host.trainer.callback_handler.callbacks.insert(0, Poison())
    host.trainer.train()
    *calm, third, fourth = steps(tmp_path)
    assert third.loss is third.loss_ratio is third.grad_norm is None
    assert [one.finite for one in (*calm, third, fourth)] == [True, True, False, True]
    assert (fourth.loss or 0) < (calm[0].loss or 0)
    summary = summarise(read_metrics(RunPaths(tmp_path / "run").metrics))
    assert (summary.ratios.not_finite, summary.why_diverged) == (1, "")


@pytest.fixture(scope="module")
def six_runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants of three seeds."""
    root = tmp_path_factory.mktemp("runs")
    for name, pacing in {"slw": PLAN.pacing, "baseline": Constant(end=64)}.items():
        for seed in range(3):
            plan = replace(PLAN, pacing=pacing, seed=seed, rows=3, budget=1_000)
            out = root / name / f"seed-{seed}"
            changes: dict[str, Any] = {"gradient_accumulation_steps": 1, "eval_steps": 2}
            hosted(store, out, plan, eval_strategy="steps", **changes).trainer.train()
    return root


def test_reports_read_the_runs_as_ours(
    six_runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = gather([six_runs])
    assert runs[0].name == "baseline/seed-0/run"
    assert {run.config["pacing"]["kind"] for run in runs} == {"linear", "constant"}
    assert len({run.environment["valid"] for run in runs}) == 1
    assert "bits per byte" in final_losses(runs).columns
    texts = [line for line in lines(runs) if isinstance(line, str)]
    assert not [line for line in texts if "not checked" in line]
    assert main(["report", str(six_runs)]) == 0
    assert "Loss" not in capsys.readouterr().err
    assert main(["report", str(six_runs), "--out", str(tmp_path / "page.html")]) == 0


def test_comparisons_take_the_runs_as_ours(six_runs: Path) -> None:
    summaries = {run.name: summarise(run.metrics) for run in gather([six_runs])}
    losses: dict[str, dict[int, float | None]] = {
        name: {seed: summaries[f"{name}/seed-{seed}/run"].last_loss for seed in range(3)}
        for name in ("slw", "baseline")
    }
    (verdict,) = verdicts(losses)
    assert verdict.seeds == 3
    assert verdict.verdict in ("better", "worse", "not distinguishable")
    best = losses["baseline"][0]
    assert best is not None
    reached = first_at_or_below(gather([six_runs])[0].metrics.evaluations, best)
    assert reached is not None
    assert reached.tokens


def test_the_evaluation_and_the_probe_are_of_whole_sequences(six_runs: Path, store: Path) -> None:
    (run,) = gather([six_runs / "slw" / "seed-0" / "run"])
    (probe,) = run.metrics.probes
    (at_ten,) = (one for one in run.metrics.evaluations if one.step == probe.step == 10)
    # Both are of the first 8 sequences of the validation part.
    assert probe.loss == pytest.approx(at_ten.loss, rel=1e-6)
    dataset = LengthenDataset(store, PLAN)
    rows = dataset.validation(512)
    assert {tuple(row["input_ids"].shape) for row in rows} == {(64,)}
    assert torch.equal(rows[0]["shift_labels"][:-1], rows[0]["input_ids"][1:])
    assert [len(dataset.validation(1)), len(rows)] == [1, 8]


# What is refused


def test_right_arguments_are_the_ones_that_the_rules_name(tmp_path: Path) -> None:
    rules = {name: wanted for name, wanted, _ in REQUIRED}
    assert rules.items() >= {k: v for k, v in RIGHT.items() if k in rules}.items()
    check_arguments(arguments(tmp_path), 3)


@pytest.mark.parametrize(
    ("argument", "value", "way_out"),
    [
        ("per_device_train_batch_size", 8, "per_device_train_batch_size=1"),
        ("train_sampling_strategy", "random", "train_sampling_strategy='sequential'"),
        ("remove_unused_columns", True, "remove_unused_columns=False"),
        ("logging_strategy", "epoch", "logging_strategy='steps'"),
        ("logging_steps", 500, "logging_steps=1"),
        ("ignore_data_skip", True, "ignore_data_skip=False"),
        ("restore_callback_states_from_checkpoint", True, "from_checkpoint=False"),
        ("average_tokens_across_devices", False, "average_tokens_across_devices=True"),
        ("label_smoothing_factor", 0.1, "label_smoothing_factor=0"),
        ("auto_find_batch_size", True, "auto_find_batch_size=False"),
        ("num_train_epochs", 3.0, "num_train_epochs=1"),
        ("max_steps", 1_000, "give the plan a larger budget"),
        ("accelerator_config", {"dispatch_batches": True}, "{'dispatch_batches': False}"),
        ("accelerator_config", {"split_batches": True}, "{'split_batches': False}"),
    ],
)
def test_a_wrong_argument_is_one_line_with_the_value_to_give(
    store: Path, tmp_path: Path, argument: str, value: Any, way_out: str
) -> None:
    with pytest.raises(SettingError) as error:
        hosted(store, tmp_path, **{argument: value})
    line = str(error.value)
    assert line.startswith(argument)
    assert line.endswith((way_out, f"{way_out})"))
    assert "\n" not in line


@pytest.mark.parametrize("argument", ["deepspeed", "fsdp", "parallelism_config"])
def test_what_is_not_supported_yet_is_refused(tmp_path: Path, argument: str) -> None:
    given = SimpleNamespace(**{**vars(arguments(tmp_path)), "n_gpu": 1, argument: "some"})
    with pytest.raises(SettingError, match=f"^{argument}: must be absent: .* not supported yet"):
        check_arguments(given, 10)


def test_several_devices_in_one_process_are_refused(tmp_path: Path) -> None:
    given = SimpleNamespace(**{**vars(arguments(tmp_path)), "n_gpu": 4})
    with pytest.raises(
        SettingError, match="n_gpu: must be at most 1 .* got 4; start with torchrun"
    ):
        check_arguments(given, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_position_embeddings": 32}, "must be at least 64, the full length of the plan"),
        ({"vocab_size": 100}, "must be at least 257, the vocabulary of the store, got 100"),
    ],
)
def test_a_model_that_is_too_small_is_refused(
    store: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    trainer = hosted(store, tmp_path, model=llama(**changes)).trainer
    with pytest.raises(SettingError, match=message):
        trainer.train()


def test_a_collator_that_changes_rows_is_refused(store: Path, tmp_path: Path) -> None:
    trainer = hosted(store, tmp_path).trainer
    trainer.data_collator = lambda rows: {"input_ids": default_data_collator(rows)["input_ids"]}
    with pytest.raises(
        SettingError, match=r"data_collator: must stack .*=transformers\.default_data"
    ):
        trainer.train()


def test_a_dataset_of_another_callback_is_refused(store: Path, tmp_path: Path) -> None:
    trainer = hosted(store, tmp_path).trainer
    other = LengthenDataset(store, PLAN)
    other.divide(4, 1)
    trainer.train_dataset = other
    with pytest.raises(SettingError, match="train_dataset: must be the dataset that the callback"):
        trainer.train()


def test_a_dataset_without_its_callback_is_refused(store: Path, tmp_path: Path) -> None:
    dataset = LengthenDataset(store, PLAN)
    with pytest.raises(SettingError, match=r"callbacks: must have the dataset's own; give Trainer"):
        Trainer(llama(), arguments(tmp_path), train_dataset=dataset).train()


# Processes


def test_a_worker_gets_positions_and_opens_the_store_itself(store: Path) -> None:
    dataset = LengthenDataset(store, PLAN)
    dataset.divide(4, 1)
    packed = pickle.dumps(dataset)
    assert len(packed) < 4096
    (mine,), (its,) = dataset.__getitems__([9])[:1], pickle.loads(packed).__getitems__([9])[:1]
    assert all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.fixture(scope="module")
def one_and_two(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run in one process and in two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    one_rank(str(store), str(one))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", "2", "-m", "tests.integrations.hosted"]
    done = subprocess.run(
        [*command, store, two],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return one, two


def left_by(out: Path, rank: int = 0) -> dict[str, Any]:
    left: dict[str, Any] = json.loads((out / f"rank-{rank}.json").read_text())
    return left


@pytest.mark.slow
@pytest.mark.ranks
def test_two_ranks_train_the_tokens_of_one_process(one_and_two: tuple[Path, Path]) -> None:
    alone_in, both_in = one_and_two
    alone = list(by_step(left_by(alone_in)["seen"], 4))
    first, second = (by_step(left_by(both_in, rank)["seen"], 4) for rank in (0, 1))
    joined = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(first, second, strict=True)]
    assert joined == alone
    for one, two in zip(steps(alone_in), steps(both_in), strict=True):
        assert [getattr(one, name) for name in SAME] == [getattr(two, name) for name in SAME]
        for name in MEASURED:
            assert (getattr(two, name) or 0) == pytest.approx(getattr(one, name) or 0, rel=1e-4)


@pytest.mark.slow
@pytest.mark.ranks
def test_an_evaluation_is_the_mean_over_its_rows_in_any_number_of_processes(
    one_and_two: tuple[Path, Path],
) -> None:
    first = []
    for out in one_and_two:
        begin, *_, last = read_metrics(RunPaths(out / "run").metrics).evaluations
        assert begin.step == 0
        first.append(begin.loss)
        assert last.loss == pytest.approx(left_by(out)["exact"], rel=1e-6)
    assert first[1] == pytest.approx(first[0], rel=1e-6)
    # The Trainer's own figure is another one, or this would show nothing.
    theirs, exact = left_by(one_and_two[1])["theirs"][-1], left_by(one_and_two[1])["exact"]
    assert theirs != pytest.approx(exact, rel=1e-5)


def test_processes_that_do_not_know_of_each_other_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    rule = r"world_size: must be the 2 processes that were started \(WORLD_SIZE\), got 1; .*use_cpu"
    with pytest.raises(SettingError, match=rule):
        check_arguments(given, 10)


@pytest.fixture(scope="module")
def ours(store: Path) -> reference.Ours:
    return reference.trained(reference.config_of(store))


@pytest.mark.parametrize("count", [1, 2, 8])
def test_in_float64_every_loss_gradient_and_weight_is_that_of_our_own_trainer(
    store: Path, tmp_path: Path, ours: reference.Ours, count: int
) -> None:
    model, trainer = in_float64(store, tmp_path, gradient_accumulation_steps=count)
    trainer.train()
    reference.check(tmp_path / "run", ours)
    reference.close([one.detach() for one in model.parameters()], ours)


@pytest.mark.ranks
@pytest.mark.parametrize("count", [1, 2])
def test_in_any_number_of_processes_so_it_is_and_resumes_to_the_bit(
    store: Path, tmp_path: Path, ours: reference.Ours, count: int
) -> None:
    reference.check_processes(rank, store, tmp_path, ours, count)

"""In a plain loop: every token once whatever the split, exact restarts, a run that reports read."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lengthen.checkpoint.verify import verify
from lengthen.core.custom_pacing import Custom
from lengthen.core.pacing import Adaptive, Constant, Linear, Staged
from lengthen.core.schedule import Hold, RateSchedule, steps
from lengthen.data.store import Store
from lengthen.evaluation.generate import sample
from lengthen.evaluation.models import find_models
from lengthen.exchange.export import export
from lengthen.integrations.data_plan import learning_rates
from lengthen.integrations.dataset import LengthenDataset
from lengthen.integrations.plain import BatchStream, DataPlan, RunLog, Step
from lengthen.integrations.validate import random_row
from lengthen.reporting.gather import gather
from lengthen.reporting.losses import final_losses
from lengthen.reporting.text import lines
from lengthen.reporting.watch import watch
from lengthen.run.directory import RunPaths, owned
from lengthen.run.metrics import JsonLines, read_metrics
from lengthen.run.records import to_json
from lengthen.training.start import resume
from lengthen.util.errors import BusyError, DataError, SettingError, StorageError
from tests.conftest import Configure, trainer_of
from tests.integrations import reference
from tests.integrations.looped import rank
from tests.ranks import finish, start
from tests.ways_out import takes

TOKENS = np.arange(3001, dtype=np.uint16)
PLAN = DataPlan(pacing=Linear(start=8, end=32, duration=6), rows=6, budget=1_800, reuse_after=2)


def flat(stream: BatchStream) -> list[list[int]]:
    return [
        [token for part in parts if part.share for token in part.inputs.flatten().tolist()]
        for _, parts in stream
    ]


# Batches


@given(count=st.integers(1, 4), world_size=st.integers(1, 4), rows=st.integers(1, 9))
def test_ranks_and_micro_batches_laid_end_to_end_are_the_step(
    count: int, world_size: int, rows: int
) -> None:
    plan = replace(PLAN, rows=rows)
    whole = list(BatchStream(TOKENS, plan))
    split = [
        BatchStream(
            TOKENS, plan, gradient_accumulation_steps=count, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    for (step, (alone,)), *ranks in zip(whole, *split, strict=True):
        parts = [part for _, own in ranks for part in own]
        assert [len(own) for _, own in ranks] == [count] * world_size
        for name in ("inputs", "targets"):
            kept = torch.cat([getattr(part, name) for part in parts if part.share])
            assert torch.equal(kept, getattr(alone, name))
        assert sum(part.share for part in parts) == pytest.approx(1)
        assert {part.length for part in parts} == {step.plan.length}


def test_a_pass_without_rows_has_a_blank_one_that_weighs_nothing() -> None:
    stream = BatchStream(TOKENS, replace(PLAN, rows=2), gradient_accumulation_steps=3)
    _, parts = next(iter(stream))
    assert [part.share for part in parts] == [0.0, 0.5, 0.5]
    assert parts[0].inputs.shape == parts[0].targets.shape == (1, 8)


def test_the_feed_is_what_our_own_trainer_reads(configured: Configure) -> None:
    config = configured(evaluation={"every_steps": 0, "probe_every_steps": 0})
    ours = trainer_of(config)
    plan = DataPlan(
        pacing=Linear(start=8, end=64, duration=12),
        rows=8,
        budget=10_000,
        reuse_after=3,
        warmup_steps=4,
        min_learning_rate=0.1,  # as the settings have it where nothing gives it
    )
    stream = BatchStream(ours.store.train, plan)
    for step, _ in stream:
        record = ours.step()
        assert record is not None
        assert (step.number, step.tokens) == (record.step, record.tokens)
        assert (step.plan.rows, step.plan.length) == (record.rows, record.length)
        assert step.joined == record.joined
        assert step.plan.learning_rate * 1e-2 == pytest.approx(record.lr)
        assert step.after.ledger == ours.train_state.ledger
    assert ours.step() is None


def test_the_sum_of_shares_times_mean_losses_has_the_gradient_of_the_step() -> None:
    torch.manual_seed(0)
    model = nn.Embedding(3001, 3001).double()

    def gradient(stream: BatchStream) -> torch.Tensor:
        model.zero_grad()
        _, parts = next(iter(stream))
        for inputs, targets, _, share in parts:
            logits = model(inputs).flatten(0, 1)
            loss = share * nn.functional.cross_entropy(logits, targets.flatten())
            torch.autograd.backward(loss)
        assert model.weight.grad is not None
        return model.weight.grad.clone()

    whole = gradient(BatchStream(TOKENS, PLAN))
    torch.testing.assert_close(
        gradient(BatchStream(TOKENS, PLAN, gradient_accumulation_steps=4)), whole
    )


@pytest.mark.parametrize("count", [1, 2, 8])
def test_in_float64_every_loss_gradient_and_weight_is_that_of_our_own_trainer(
    store: Path, tmp_path: Path, count: int
) -> None:
    config = reference.config_of(store)
    model = reference.model_of(config)
    optimizer = reference.optimizer_of(model, config)
    plan, log = reference.PLAN, RunLog(tmp_path / "run", reference.PLAN)
    tokens = Store.open(store).train
    rates = plan.lr_scheduler(optimizer)
    for step, parts in BatchStream(tokens, plan, gradient_accumulation_steps=count):
        total = torch.zeros((), dtype=torch.float64)
        for inputs, targets, _, share in parts:
            loss = share * reference.mean_loss(model(inputs), targets)
            torch.autograd.backward(loss)
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        log.step(step, loss=total, grad_norm=norm, optimizer=optimizer)
        rates.step()
        optimizer.zero_grad()
    log.close()
    ours = reference.trained(config)
    reference.check(tmp_path / "run", ours)
    reference.close([one.detach() for one in model.parameters()], ours)


@pytest.mark.ranks
@pytest.mark.parametrize("count", [1, 2])
def test_in_any_number_of_processes_so_it_is_and_resumes_to_the_bit(
    store: Path, tmp_path: Path, count: int
) -> None:
    ours = reference.trained(reference.config_of(store))
    reference.check_processes(rank, store, tmp_path, ours, count)


@pytest.mark.ranks
def test_of_sharded_weights_one_process_logs_all_but_the_variance(
    store: Path, tmp_path: Path
) -> None:
    ours = reference.trained(reference.config_of(store)).records
    finish(start(*[partial(rank, store, tmp_path, "sharded")] * 2))
    log = read_metrics(tmp_path / "run").steps
    for name in ("loss", "grad_norm"):
        expected = [getattr(one, name) for one in ours]
        assert [getattr(one, name) for one in log] == pytest.approx(expected, rel=1e-10)
    assert {one.variance_norm for one in log} == {one.variance_max for one in log} == {None}


# A pacing of the user's own


def by_hundreds(step: int) -> int:
    return min(32, 8 + 8 * (step // 3))


@pytest.mark.parametrize("pacing", ["linear", None, {"kind": "linear", "start": 8}, abs])
def test_a_plan_of_what_is_no_pacing_names_the_pacings(pacing: Any) -> None:
    with pytest.raises(SettingError, match="pacing: must be a pacing.*; one of Constant, Linear, "):
        DataPlan(pacing=pacing, rows=16, budget=1000)


def test_any_function_of_the_step_is_a_pacing_and_a_resumed_stream_must_have_it_again() -> None:
    plan = replace(PLAN, pacing=Custom(by_hundreds, end=32))
    stream = BatchStream(TOKENS, plan)
    lengths = [step.plan.length for step, _ in islice(stream, 7)]
    assert lengths == [8, 8, 8, 16, 16, 16, 24]
    assert plan.number_of_steps() == len(list(BatchStream(TOKENS, plan)))
    saved = json.loads(json.dumps(stream.state_dict()))
    again = BatchStream(TOKENS, replace(PLAN, pacing=Custom(by_hundreds, end=32)))
    again.load_state_dict(saved)
    assert flat(again) == flat(stream)
    other = BatchStream(TOKENS, replace(PLAN, pacing=Custom(lambda _: 8, end=32)))
    with pytest.raises(SettingError, match=r"^pacing: the checkpoint has .*by_hundreds"):
        other.load_state_dict(saved)
    saved["pacing_values"] = [[0, 8], [2, 16]]
    with pytest.raises(SettingError, match=r"^pacing.function: gives other values than those of"):
        again.load_state_dict(saved)


def test_no_default_device_of_a_host_is_computed_on(tmp_path: Path) -> None:
    torch.set_default_device("meta")  # nothing can be computed there
    try:
        RunLog(tmp_path / "run", PLAN).close()
        _, parts = next(iter(BatchStream(TOKENS, replace(PLAN, rows=2), world_size=3)))
        row = random_row(8, 8)
    finally:
        torch.set_default_device(None)
    assert {one.device.type for one in (*parts[0][:2], *row.values())} == {"cpu"}


def test_a_log_has_the_name_of_the_function(tmp_path: Path) -> None:
    plan = replace(PLAN, pacing=Custom(by_hundreds, end=32))
    RunLog(tmp_path / "run", plan).close()
    table = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["pacing"]
    name = f"{__name__}.by_hundreds"
    assert table == {"kind": "custom", "of": "length", "function": name, "end": 32}


# Learning rates by tokens


@pytest.mark.parametrize("kind", get_args(RateSchedule))
def test_the_rates_of_the_scheduler_are_those_of_the_token_clock(kind: RateSchedule) -> None:
    plan = replace(PLAN, warmup_steps=3, min_learning_rate=0.1, decay_tokens=1_500)
    plan = replace(plan, rate_schedule=kind, wsd_decay_tokens=600 if kind == "wsd" else None)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    rates, found = plan.lr_scheduler(optimizer), []
    for _ in BatchStream(TOKENS, plan):
        optimizer.step()
        found.append(optimizer.param_groups[0]["lr"])
        rates.step()
    wanted = [0.5 * shape.learning_rate for _, shape in steps(plan.schedule)]
    assert found == pytest.approx(wanted)
    assert found[-1] == pytest.approx(0.5 if kind == "constant" else 0.05)
    assert plan.number_of_steps() == len(wanted)


@given(
    pacing=st.sampled_from(
        [Linear(start=8, end=32, duration=9), Staged(values=(8, 32), boundaries=(5,))]
    ),
    hold=st.sampled_from(["rows", "tokens"]),
    budget=st.integers(200, 9_000),
    warmup=st.integers(0, 20),
    step=st.integers(0, 60),
)
def test_the_number_and_the_rate_of_a_step_are_known_without_walking(
    pacing: Linear | Staged, hold: Hold, budget: int, warmup: int, step: int
) -> None:
    plan = DataPlan(pacing=pacing, hold=hold, rows=6, budget=budget, warmup_steps=warmup)
    walked = [shape for _, shape in steps(plan.schedule)]
    assert plan.number_of_steps() == len(walked)
    if step < len(walked):
        assert learning_rates(plan.schedule)(step) == walked[step].learning_rate


def test_forty_million_steps_are_counted_and_rated_at_once() -> None:
    plan = replace(PLAN, rows=8, budget=10**10)
    assert plan.number_of_steps() == 6 + (10**10 - 768) // 256
    assert learning_rates(plan.schedule)(39_062_502) == pytest.approx(0, abs=1e-12)


def test_a_scheduler_that_was_saved_goes_on_and_its_file_is_of_plain_values(tmp_path: Path) -> None:
    def scheduler() -> torch.optim.lr_scheduler.LambdaLR:
        return PLAN.lr_scheduler(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5))

    one, two = scheduler(), scheduler()
    for _ in range(5):
        one.optimizer.step()
        one.step()
    torch.save(one.state_dict(), tmp_path / "rates.pt")
    two.load_state_dict(torch.load(tmp_path / "rates.pt", weights_only=True))
    for scheduler_ in (one, two):
        scheduler_.optimizer.step()
        scheduler_.step()
    assert one.get_last_lr() == two.get_last_lr()


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)])
@pytest.mark.parametrize("made_last", [False, True])
def test_a_resumed_optimizer_has_its_rate_whichever_is_made_and_loaded_first(
    rate: float | Tensor, *, made_last: bool
) -> None:
    def optimizer() -> torch.optim.Optimizer:
        given = rate.clone() if isinstance(rate, Tensor) else rate
        return torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=given)

    before = optimizer()
    scheduler = PLAN.lr_scheduler(before)
    for _ in range(8):
        before.step()
        scheduler.step()
    saved, saved_rates = deepcopy(before.state_dict()), deepcopy(scheduler.state_dict())
    after = optimizer()
    if made_last:
        after.load_state_dict(saved)
        PLAN.lr_scheduler(after).load_state_dict(saved_rates)
    else:
        made = PLAN.lr_scheduler(after)
        after.load_state_dict(saved)
        made.load_state_dict(saved_rates)
    assert 0 < float(after.param_groups[0]["lr"]) < 0.5
    assert float(after.param_groups[0]["lr"]) == float(before.param_groups[0]["lr"])


# Going on


@given(after=st.integers(0, 12))
def test_a_restored_feed_goes_on_as_the_unbroken_one(after: int) -> None:
    unbroken = BatchStream(TOKENS, PLAN, gradient_accumulation_steps=2)
    _ = list(islice(unbroken, after))
    state = json.loads(json.dumps(unbroken.state_dict()))
    restored = BatchStream(TOKENS, PLAN)
    restored.load_state_dict(state)
    assert flat(restored) == flat(unbroken)


def test_a_step_that_could_not_be_read_comes_again(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    file, aside = tmp_path / "store/train.bin", tmp_path / "train.bin"
    stream = BatchStream(Store.open(tmp_path / "store").train, PLAN)
    file.rename(aside)
    with pytest.raises(DataError, match="no such file"):
        next(iter(stream))
    assert stream.state_dict()["counters"]["step"] == 0
    aside.rename(file)
    assert [step.number for step, _ in islice(stream, 2)] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "seed: the checkpoint has 0, got 3; a run keeps its plan but for the bud"),
        ({"rows": 7}, "rows: the checkpoint has 6, got 7"),
        ({"pacing": Constant(end=32)}, "pacing: the checkpoint has {'kind': 'linear'"),
    ],
)
def test_another_course_is_refused(changes: dict[str, Any], message: str) -> None:
    saved = BatchStream(TOKENS, PLAN).state_dict()
    with pytest.raises(SettingError) as error:
        BatchStream(TOKENS, replace(PLAN, **changes)).load_state_dict(saved)
    assert str(error.value).startswith(message)


@takes("give DataPlan(decay_tokens={}), else it is the budget")
def test_a_larger_budget_alone_is_told_which_decay_to_keep() -> None:
    saved = BatchStream(TOKENS, PLAN).state_dict()
    longer = replace(PLAN, budget=2 * PLAN.budget)
    with pytest.raises(SettingError) as caught:
        BatchStream(TOKENS, longer).load_state_dict(saved)
    given = eval(f"dict{caught.value.hint.partition('DataPlan')[2].partition(',')[0]}")
    BatchStream(TOKENS, replace(longer, **given)).load_state_dict(saved)


def test_a_course_with_lists_comes_back_from_json_as_itself() -> None:
    plan = replace(PLAN, pacing=Staged(values=(8, 32), boundaries=(5,)))
    BatchStream(TOKENS, plan).load_state_dict(
        json.loads(json.dumps(BatchStream(TOKENS, plan).state_dict()))
    )


def test_another_corpus_is_refused() -> None:
    with pytest.raises(SettingError, match="store: the checkpoint was trained on one of 93 seq"):
        BatchStream(TOKENS[:2000], PLAN).load_state_dict(BatchStream(TOKENS, PLAN).state_dict())


# Mistakes


@pytest.mark.parametrize("tenth", [np.float32(0.1), torch.tensor(0.1), np.array([0.1])[0]])
def test_the_least_rate_may_be_a_number_of_numpy_or_torch(tenth: Any) -> None:
    plan = replace(PLAN, min_learning_rate=tenth)
    saved = json.loads(json.dumps(BatchStream(TOKENS, plan).state_dict()))
    BatchStream(TOKENS, plan).load_state_dict(saved)
    assert saved["plan"]["min_learning_rate"] == pytest.approx(0.1)


def test_a_plan_reads_counts_as_a_file_does() -> None:
    given: dict[str, Any] = {"budget": "1.8K", "decay_tokens": "2K"}
    assert replace(PLAN, **given) == replace(PLAN, budget=1_800, decay_tokens=2_000)
    given = {"budget": "many"}
    with pytest.raises(SettingError, match=r"budget\.tokens: must be a whole number, got 'many'"):
        replace(PLAN, **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "batch.rows: must be from 1 to 1099511627776, got 0"),
        ({"budget": 10}, "budget.tokens: must be at least one step (48 tokens), got 10"),
        ({"full_length": 16}, "pacing.end: must be at most model.length (16), got 32"),
        ({"hold": "row"}, "batch.hold: no such way, got 'row'; did you mean 'rows'?"),
        (
            {"leftovers": "in_place"},
            "batch.leftovers: needs batch.hold = \"tokens\", got 'in_place'",
        ),
        (
            {"leftovers": "in_place", "hold": "tokens"},
            "pacing: must have lengths that divide model.length (32) where batch.leftovers is "
            '"in_place", got 24',
        ),
        ({"rate_schedule": "cos"}, "optimizer.schedule: no such way, got 'cos'; did you mean"),
        ({"wsd_decay_tokens": 0}, "optimizer.wsd_decay_tokens: must be from 1 to"),
        ({"wsd_decay_tokens": 9}, 'optimizer.wsd_decay_tokens: needs optimizer.schedule = "wsd"'),
        (
            {"wsd_decay_tokens": "9K", "rate_schedule": "wsd"},
            "optimizer.wsd_decay_tokens: must not exceed optimizer.decay_tokens, or else the",
        ),
        (
            {"min_learning_rate": 1.5},
            "min_learning_rate: must be from 0 to 1, a share of the optimizer's own, got 1.5",
        ),
        ({"min_learning_rate": "low"}, "min_learning_rate: must be from 0 to 1, a share of"),
        ({"min_learning_rate": None}, "min_learning_rate: must be from 0 to 1, a share of"),
        (
            {"pacing": Linear(of="rows", start=1, end=6, duration=3)},
            "full_length: is missing; a pacing of rows does not give it",
        ),
        (
            {"pacing": Adaptive(start=8, end=32)},
            "pacing.kind: must be decided by the step, got 'adaptive'; an adaptive one needs our",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError) as error:
        replace(PLAN, **changes)
    assert str(error.value).startswith(message)


def test_a_plan_cannot_ask_for_document_masks() -> None:
    masked: dict[str, Any] = {"documents": "mask"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'documents'"):
        replace(PLAN, **masked)


@pytest.mark.parametrize(
    "where",
    [{"rank": 2, "world_size": 2}, {"rank": -1}, {"gradient_accumulation_steps": 0}],
)
def test_a_place_that_does_not_exist_is_refused(where: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="must be"):
        BatchStream(TOKENS, PLAN, **where)


@pytest.mark.parametrize(
    ("tokens", "got"),
    [
        ("data/novels/train.bin" * 20, "'str'"),
        (Path("store"), "'PosixPath'"),
        (TOKENS.tolist(), "'list'"),
        (torch.arange(300), "'Tensor'"),
        (TOKENS.astype(np.float32), f"'float32 {TOKENS.shape}'"),
        (TOKENS.astype(bool), f"'bool {TOKENS.shape}'"),
        (TOKENS[:300].reshape(3, 100), f"'{TOKENS.dtype} (3, 100)'"),
    ],
)
def test_what_is_no_row_of_tokens_is_refused_when_the_stream_is_made(tokens: Any, got: str) -> None:
    with pytest.raises(SettingError) as error:
        BatchStream(tokens, PLAN)
    rule = "tokens: must be a 1-D array of whole numbers"
    assert str(error.value) == f'{rule}, got {got}; such as Store.open("store").train'


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64, ">u2"])
def test_whole_numbers_of_any_type_are_tokens(dtype: Any) -> None:
    ours, same = (next(iter(BatchStream(t, PLAN)))[1] for t in (TOKENS, TOKENS.astype(dtype)))
    assert torch.equal(ours[0].inputs, same[0].inputs)


def test_what_is_no_plan_is_refused(store: Path) -> None:
    for reader, source in ((BatchStream, TOKENS), (LengthenDataset, store)):
        with pytest.raises(SettingError, match=r"^plan: must be a DataPlan, got 3$"):
            reader(cast(Any, source), cast(Any, 3))


def test_a_corpus_without_one_sequence_is_refused() -> None:
    with pytest.raises(DataError, match="corpus: has 30 tokens"):
        BatchStream(TOKENS[:30], PLAN)


# The log


def train(
    out: Path, number: int, saved: dict[str, Any] | None = None, store: Store | None = None
) -> dict[str, Any]:
    """Train a bigram model to step `number`, and return the state of stream and log there."""
    torch.manual_seed(0)
    model = nn.Embedding(3001, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    stream = BatchStream(TOKENS, PLAN)
    if saved is not None:
        stream.load_state_dict(saved["stream"])
    log = RunLog(out, PLAN, store=store, saved=saved["log"] if saved else None)
    for step, ((inputs, _, _, share),) in stream:
        loss = share * model(inputs).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        log.step(step, loss=loss.item(), grad_norm=norm.item(), optimizer=optimizer)
        if step.number % 4 == 0:
            log.probe(loss.item())
            log.evaluation(loss.item(), side_seconds=0.5)
        if step.number == number:
            break
    state = {"stream": stream.state_dict(), "log": log.state_dict()}
    log.finish()
    return state


def test_reports_read_the_log_of_a_plain_loop(tmp_path: Path, store: Path) -> None:
    train(tmp_path / "run", 12, store=Store.open(store))
    (run,) = gather([tmp_path / "run"])
    first, *_, last = run.metrics.steps
    assert first.loss_ratio is None
    assert to_json(last).keys() == to_json(first).keys()
    assert (last.step, last.lr) == (12, 1e-2)
    assert [one.loss_ratio is None for one in run.metrics.probes] == [True, False, False]
    assert run.metrics.events[-1].name == "finished"
    assert run.config["data"]["store_id"] == Store.open(store).id
    assert run.environment["valid"] == Store.open(store).manifest.valid.sha256
    assert "bits per byte" in final_losses([run]).columns
    assert any("up to step 12" in line for line in lines([run]) if isinstance(line, str))


def test_a_log_goes_on_where_its_state_was_taken(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    state = json.loads(json.dumps(train(paths.root, 5)))
    before = read_metrics(paths.metrics).records
    train(
        paths.root, 8, state
    )  # its last line was "finished" at 5; what came later than the state goes
    again = read_metrics(paths.metrics)
    assert [step.step for step in again.steps] == [*range(1, 9)]
    assert again.records[: len(before)] == before
    assert (again.steps[5].seconds or 0) >= (again.steps[4].seconds or 0)
    assert again.probes[1].loss_ratio is not None


def test_lines_after_the_state_are_set_aside(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    state = train(paths.root, 3)
    size = state["log"]["metrics_bytes"]
    paths.metrics.write_bytes(paths.metrics.read_bytes()[:size] + b'{"kind":"step","step":4}\n')
    train(paths.root, 4, state)
    assert (read_metrics(paths.metrics).steps[3].loss or 0) > 0
    assert paths.discarded.read_bytes() == b'{"kind":"step","step":4}\n'


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.toml", "environment.json"])
def test_a_new_log_touches_no_other_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(SettingError, match=f"out: must be a new directory, this one has {name}"):
        RunLog(tmp_path, PLAN)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_token_store_is_no_place_for_a_log(store: Path) -> None:
    before = sorted(store.iterdir())
    for overwrite in (False, True):
        with pytest.raises(SettingError, match="out: must be another directory than a token store"):
            RunLog(store, PLAN, overwrite=overwrite)
    assert sorted(store.iterdir()) == before


def test_an_earlier_run_is_overwritten_where_that_is_asked_and_nothing_else(tmp_path: Path) -> None:
    train(tmp_path, 3)
    (tmp_path / "model.pt").write_text("mine")
    with pytest.raises(SettingError, match=r"overwrite=True replaces that run"):
        RunLog(tmp_path, PLAN)
    RunLog(tmp_path, replace(PLAN, seed=7), overwrite=True).close()
    assert "seed = 7" in RunPaths(tmp_path).config.read_text()
    assert not read_metrics(tmp_path).records
    assert (tmp_path / "model.pt").read_text() == "mine"


def test_a_run_with_checkpoints_of_ours_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/step-00000010").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(SettingError, match="out: must hold no checkpoints of another run"):
        RunLog(tmp_path, PLAN, overwrite=True)
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"


def test_a_run_that_ended_before_its_first_step_is_begun_anew(tmp_path: Path) -> None:
    RunLog(tmp_path, PLAN).close()
    RunLog(tmp_path, replace(PLAN, seed=7)).close()
    assert "seed = 7" in RunPaths(tmp_path).config.read_text()


def test_a_state_of_another_directory_is_refused(tmp_path: Path) -> None:
    state = train(tmp_path / "run", 3)
    with pytest.raises(SettingError, match="out: must be the run of the checkpoint, whose metrics"):
        RunLog(tmp_path / "other", PLAN, saved=state["log"])


@pytest.mark.parametrize(("loss", "norm"), [(nan, 1.0), (1.0, float("inf")), (nan, nan)])
def test_what_is_not_finite_is_recorded_as_it_is(tmp_path: Path, loss: float, norm: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    log = RunLog(tmp_path / "run", PLAN)
    for (step, _), (one_loss, one_norm) in zip(
        BatchStream(TOKENS, PLAN), [(2.0, 1.0), (loss, norm), (3.0, 1.0)], strict=False
    ):
        log.step(step, loss=one_loss, grad_norm=one_norm, optimizer=optimizer)
    log.close()
    first, poor, third = read_metrics(RunPaths(tmp_path / "run").metrics).steps
    assert (poor.loss is None, poor.grad_norm is None) == (loss != 1.0, norm != 1.0)
    assert (poor.finite, first.finite, third.finite) == (False, True, True)
    assert third.loss_ratio == (1.5 if loss != 1.0 else 3.0)
    # Such an optimizer has no second moment: that is unknown, and not zero.
    assert first.variance_norm is first.variance_max is None


NUMBERS = [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array([2.0])]
NUMBERS += [torch.tensor(2.0), torch.tensor([2.0]), torch.tensor(2, dtype=torch.bfloat16)]
NUMBERS += [torch.tensor(2.0, requires_grad=True)]


def begun(out: Path) -> tuple[RunLog, Step, torch.optim.Optimizer]:
    (step, _), *_ = BatchStream(TOKENS, PLAN)
    return RunLog(out, PLAN), step, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


@pytest.mark.parametrize("two", NUMBERS, ids=lambda two: f"{type(two).__module__} {two!r}")
def test_a_number_is_taken_in_whatever_form_it_comes(tmp_path: Path, two: Any) -> None:
    log, step, optimizer = begun(tmp_path)
    log.step(step, loss=two, grad_norm=two, optimizer=optimizer, rate=two)
    log.evaluation(two, side_seconds=two)
    log.probe(two, side_seconds=two)
    log.close()
    metrics = read_metrics(RunPaths(tmp_path).metrics)
    (line,), (evaluation,), (probe,) = metrics.steps, metrics.evaluations, metrics.probes
    assert (line.loss, line.grad_norm, line.lr) == (2.0, 2.0, 2.0)
    assert (evaluation.loss, evaluation.side_seconds) == (2.0, 2.0)
    assert (probe.loss, probe.side_seconds) == (2.0, 2.0)


OTHERS = [None, "2.0", True, [2.0], 2j, torch.ones(2), np.ones(2), torch.tensor(True)]


@pytest.mark.parametrize("other", OTHERS, ids=repr)
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_what_is_no_number_is_one_line_and_leaves_no_line(
    tmp_path: Path, name: str, other: Any
) -> None:
    log, step, optimizer = begun(tmp_path)
    given_: dict[str, Any] = {"loss": 1.0, "grad_norm": 1.0, name: other}
    with pytest.raises(SettingError, match=f"^{name}: must be one number") as error:
        log.step(step, optimizer=optimizer, **given_)
    assert "\n" not in str(error.value)
    log.step(step, loss=1.0, grad_norm=1.0, optimizer=optimizer)
    log.close()
    assert len(read_metrics(RunPaths(tmp_path).metrics).records) == 1


def test_a_closed_log_has_its_state_and_writes_nothing_into_the_run_of_the_next(
    tmp_path: Path,
) -> None:
    log, step, optimizer = begun(tmp_path)
    given_: dict[str, Any] = {"loss": 1.0, "grad_norm": 1.0, "optimizer": optimizer}
    log.step(step, **given_)
    log.finish()
    again = RunLog(tmp_path, PLAN, saved=log.state_dict())
    hint = r"^log: is closed; RunLog\(out, plan, saved=log.state_dict\(\)\) continues the run$"
    for use in (lambda: log.step(step, **given_), lambda: log.evaluation(1.0), log.finish):
        with pytest.raises(SettingError, match=hint):
            use()
    again.evaluation(2.0)
    again.finish()
    kinds = [to_json(record)["kind"] for record in read_metrics(tmp_path).records]
    assert kinds == ["step", "event", "eval", "event"]


def test_a_line_that_could_not_be_written_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, step, optimizer = begun(tmp_path)
    given_: dict[str, Any] = {"loss": 1.0, "grad_norm": 1.0, "optimizer": optimizer}
    before = log.state_dict()

    def full(*_: object) -> None:
        raise StorageError("storage: no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "write", full)
        for use in (lambda: log.step(step, **given_), lambda: log.probe(1.0)):
            with pytest.raises(StorageError):
                use()
            assert log.state_dict() == before
    assert log.step(step, **given_).loss_ratio is None
    log.close()


# Its directory


def test_a_directory_has_one_log_in_a_process(tmp_path: Path) -> None:
    log, step, optimizer = begun(tmp_path)
    message = f"{tmp_path} is in use by pid {os.getpid()} on .*, which is this process; close the"
    with pytest.raises(BusyError, match=message):
        RunLog(tmp_path, PLAN)
    log.step(step, loss=1.0, grad_norm=1.0, optimizer=optimizer)
    state = log.state_dict()
    for saved in (None, state):
        with pytest.raises(BusyError, match=message):
            RunLog(tmp_path, PLAN, saved=saved)
    log.close()
    RunLog(tmp_path, PLAN, saved=state).close()


def test_a_directory_has_one_log_among_processes_until_its_process_dies(tmp_path: Path) -> None:
    log, step, optimizer = begun(tmp_path)
    log.step(step, loss=1.0, grad_norm=1.0, optimizer=optimizer)
    state = log.state_dict()
    script = f"""
import signal, sys
from lengthen.util.errors import LengthenError
from tests.integrations.test_plain import PLAN, RunLog
try:
    log = RunLog({str(tmp_path)!r}, PLAN, saved={state!r})
    print("mine", flush=True)
    signal.pause()
except LengthenError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert f"{tmp_path} is in use by pid {os.getpid()} on " in done.stdout
    assert done.stdout.count("\n") == 1
    log.close()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(BusyError, match=f"pid {other.pid} on .*; wait for it, or stop it"):
            RunLog(tmp_path, PLAN, saved=state)
        other.kill()
    RunLog(tmp_path, PLAN, saved=state).close()


def test_our_own_trainer_and_a_log_keep_out_of_each_others_directory(
    tmp_path: Path, configured: Configure
) -> None:
    log, *_ = begun(tmp_path)
    with pytest.raises(BusyError, match="is in use by"), owned(tmp_path):
        pass
    log.close()
    with owned(tmp_path), pytest.raises(BusyError, match="is in use by"):
        RunLog(tmp_path, PLAN)


def test_what_another_loop_has_trained_is_not_ours_to_go_on_with(tmp_path: Path) -> None:
    root = tmp_path / "run"
    train(root, 3)
    cause = "RUN: was written by another training loop, which has its model and its checkpoints"
    for use in (
        lambda: resume(root, quiet=True),
        lambda: export(root, tmp_path / "hf"),
        lambda: verify(root),
        lambda: list(sample(root)),
        lambda: find_models([root], None)[0].config,
    ):
        with pytest.raises(SettingError, match=cause):
            use()
    assert watch(root, once=True) == 0


# What it needs


def test_the_plain_core_needs_no_transformers() -> None:
    code = "import sys, lengthen.integrations.plain; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_to_import_it_costs_little_more_than_torch() -> None:
    heavy = "{'sympy', 'torch._dynamo', 'torch.distributed.tensor', 'transformers', 'tokenizers'}"
    code = f"import sys, lengthen.integrations.plain; print(*{heavy} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""

"""The plan, held to real runs: every recipe and every pacing, step by step, and torch's count."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lengthen.checkpoint.restore import build_model
from lengthen.config import load as settings
from lengthen.config.load import build, merge
from lengthen.config.recipes import RECIPES
from lengthen.config.schema import Config
from lengthen.core.ledger import Ledger, reuse_spacing
from lengthen.core.schedule import RateSchedule, steps
from lengthen.data.open_store import open_store, with_store
from lengthen.data.store import Store
from lengthen.distributed.context import DistributedContext
from lengthen.model import cost
from lengthen.planning.plan import Corpus, Plan, PlanPoint, plan, seconds_along
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.run.records import StepRecord
from lengthen.training.start import train
from lengthen.training.trainer import Trainer
from tests.conftest import Configure

CPU = DistributedContext(torch.device("cpu"))


def bound(config: Config) -> tuple[Config, Store, int]:
    """The configuration on its store, the store, and N."""
    store = open_store(config)
    return with_store(config, store), store, (len(store.train) - 1) // config.model.length


def planned(config: Config, *, calm: bool = True) -> Plan:
    config, _, sequences = bound(config)
    micro_tokens = config.batch.micro_tokens
    assert micro_tokens != "auto"
    return plan(config, micro_tokens, sequences, calm=calm)


def trained(config: Config) -> tuple[list[StepRecord], list[int], Trainer]:
    """Every step that the trainer itself makes, the leftovers after each, and the trainer."""
    config, store, _ = bound(config)
    micro_tokens = config.batch.micro_tokens
    assert micro_tokens != "auto"
    trainer = Trainer(config, store, CPU, micro_tokens)
    records, leftovers = [], []
    while (record := trainer.step()) is not None:
        records.append(record)
        leftovers.append(trainer.train_state.ledger.leftover)
    return records, leftovers, trainer


def expect_the_run(plan: Plan, records: Sequence[StepRecord], leftovers: Sequence[int]) -> None:
    """Every moment of the curve is the step that the trainer made, and so are the totals."""
    for moment in plan.curve:
        record = records[moment.step - 1]
        assert moment.tokens == record.tokens
        assert (moment.rows, moment.length) == (record.rows, record.length)
        assert moment.learning_rate == record.lr
        assert moment.leftover == leftovers[moment.step - 1]
    assert (plan.steps, plan.tokens) == (len(records), records[-1].tokens)
    counted = [(record.rows, record.length) for record in records]
    assert plan.shapes == {shape: counted.count(shape) for shape in dict.fromkeys(counted)}


def tiny_recipe(name: str, store: Path) -> Config:
    """A recipe on the small store: its lengths, pacing and rates, all else as small as it goes."""
    tables = RECIPES[name]()
    pacing, optimizer = tables["pacing"], tables["optimizer"]
    length, rows = tables["model"]["length"], 2 + (tables["batch"]["rows"] > 512)
    model = {"layers": 1, "width": 4, "heads": 1, "kv_heads": None, "mlp_width": None}
    small: dict[str, Any] = {
        "data": {"path": str(store)},
        "model": model | {"vocabulary": None, "dropout": 0.0},
        "batch": {"rows": rows, "micro_tokens": length},
        "optimizer": {"warmup_steps": 3, "decay_tokens": None},
        # Not a whole number of steps: the last one is cut, or falls away.
        "budget": {"tokens": rows * length * 7 + 5},
        "run": {"precision": "fp32"},
    }
    if "decay_tokens" in optimizer:
        share = optimizer["decay_tokens"] / tables["budget"]["tokens"]
        small["optimizer"]["decay_tokens"] = int(share * small["budget"]["tokens"])
    if pacing["kind"] != "constant":
        small["pacing"] = {"duration": 6}
    return build(merge(tables, small)[0])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_planned_as_it_trains(name: str, store: Path) -> None:
    config = tiny_recipe(name, store)
    records, leftovers, trainer = trained(config)
    found = planned(config)
    expect_the_run(found, records, leftovers)
    assert found.full is not None
    assert found.corpus is not None
    ledger = trainer.train_state.ledger
    assert (found.corpus.unread, found.corpus.dropped) == (ledger.unread, ledger.dropped)
    assert found.corpus.most_leftover == max(leftovers)


PACINGS: dict[str, dict[str, Any]] = {
    "constant": {"pacing": {"kind": "constant"}},
    "linear": {},
    "root": {"pacing": {"kind": "root", "degree": 2}},
    "doubling": {"pacing": {"kind": "doubling"}},
    "staged": {"pacing": {"kind": "staged", "values": [16, 64], "boundaries": [7]}},
    "rows paced": {"pacing": {"of": "rows", "start": 1, "multiple": 1, "end": 8}},
    "tokens held": {"batch": {"hold": "tokens"}},
    "cut in place": {
        "pacing": {"kind": "doubling"},
        "batch": {"hold": "tokens", "leftovers": "in_place"},
    },
    "rates by tokens": {"optimizer": {"rate_by_tokens": "sqrt"}},
    "wsd by tokens": {"optimizer": {"schedule": "wsd", "rate_by_tokens": "sqrt"}},
    "a linear rate": {"optimizer": {"schedule": "linear", "warmup_steps": 3}},
    "a constant rate": {"optimizer": {"schedule": "constant"}},
    "dropped": {"batch": {"leftovers": "drop"}},
    "longer than the run": {"pacing": {"duration": 500}},
    "epochs": {"budget": {"epochs": 0.2}},
}


@pytest.mark.parametrize("changes", PACINGS.values(), ids=PACINGS.keys())
def test_every_pacing_is_planned_as_it_trains(
    configured: Configure, changes: dict[str, Any]
) -> None:
    config = configured(**changes)
    records, leftovers, _ = trained(config)
    expect_the_run(planned(config), records, leftovers)


def test_an_adaptive_run_lies_between_its_quickest_and_its_slowest(
    configured: Configure, tmp_path: Path
) -> None:
    pacing = {"kind": "adaptive", "every": 1, "patience": 2, "max_hold": 6}
    config = configured(pacing=pacing, budget={"tokens": 16_000}, saving={"every_steps": 0})
    train(config, tmp_path / "run", quiet=True)
    records = read_metrics(RunPaths(tmp_path / "run").metrics).steps
    quickest, slowest = planned(config, calm=True), planned(config, calm=False)
    assert quickest.steps <= len(records) <= slowest.steps
    assert quickest.full is not None
    assert slowest.full is not None
    full_from = next(record.step for record in records if record.length == 64)
    assert quickest.full.step <= full_from <= slowest.full.step
    assert (quickest.full.step, slowest.full.step) == (1 + 7 * 2, 1 + 7 * 6)


def test_the_rate_is_followed_in_steps_and_in_tokens(configured: Configure) -> None:
    rates = {"warmup_steps": 4, "min_learning_rate": 1e-3, "decay_tokens": 5000}
    found = planned(configured(optimizer=rates))
    assert found.warmup_steps == 4
    assert found.warmup_tokens == 2 * 8 * 8 + 2 * 8 * 16  # 8, 12, 17 and 22 rounded down to 8s
    assert found.full is not None
    assert (found.full.step, found.full.length) == (13, 64)
    assert found.lowest is not None
    assert found.lowest.tokens_before >= 5000 > found.lowest.tokens_before - 8 * 64
    assert found.lowest.learning_rate == found.curve[-1].learning_rate == 1e-3


def test_a_budget_that_ends_early_leaves_marks_unset(configured: Configure) -> None:
    found = planned(configured(pacing={"duration": 500}, optimizer={"warmup_steps": 400}))
    assert found.full is None
    assert found.lowest is None
    assert found.warmup_steps == found.steps < 400
    assert found.warmup_tokens == found.tokens


def test_a_long_run_has_a_curve_of_some_200_points(configured: Configure) -> None:
    found = planned(configured(budget={"tokens": 2_000_000}))
    assert 200 <= len(found.curve) <= 205
    assert [found.curve[0].step, found.curve[-1].step] == [1, found.steps]
    steps = [moment.step for moment in found.curve]
    assert steps == sorted(set(steps))


def test_flops_so_far_are_those_of_the_shapes(configured: Configure) -> None:
    found = planned(configured())
    assert found.curve[-1].flops == found.flops
    assert found.curve[0].flops < found.curve[1].flops
    per_token = [moment.flops / moment.tokens for moment in found.curve]
    assert per_token == sorted(per_token)  # attention at the length that each step really has


def test_seconds_add_up_along_the_curve(configured: Configure) -> None:
    config = configured(budget={"tokens": 200_000})
    found = planned(config)

    def of_step(rows: int, length: int) -> float:
        return 0.25 + rows * length / 1024

    seconds = seconds_along(found, of_step)
    expected = [0.25 * moment.step + moment.tokens / 1024 for moment in found.curve]
    assert seconds == pytest.approx(expected, rel=1e-12)


def counted(config: Config, rows: int, length: int) -> int:
    """What torch counts, operator by operator, over one forward and backward pass."""
    model = build_model(config, CPU)
    tokens = torch.zeros((rows, length), dtype=torch.int64)
    # It sees neither the fast attention of a processor nor our loss in chunks: both plain here.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model.logits(tokens).flatten(0, 1)
        loss = functional.cross_entropy(logits, tokens.flatten(), reduction="sum")
        torch.autograd.backward(loss)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("shape", [(4, 128, 4, 512), (2, 64, 2, 2048), (1, 16, 2, 257)])
def test_the_flops_of_a_run_are_those_that_torch_counts(
    configured: Configure, shape: tuple[int, int, int, int]
) -> None:
    layers, width, heads, vocabulary = shape
    tables: dict[str, Any] = {
        "data": {"path": None},
        "model": {"layers": layers, "width": width, "heads": heads, "vocabulary": vocabulary},
        "batch": {"rows": 3, "micro_tokens": 192},
        "pacing": {"start": 8, "duration": 4, "multiple": 24},
        "budget": {"tokens": 1500},
    }
    config = configured(**tables)
    found = plan(config, 192)
    assert len(found.shapes) >= 3
    total = sum(counted(config, *shape) * steps for shape, steps in found.shapes.items())
    assert found.flops == total  # within 1 % was promised; both count matrix products alone


def test_without_a_store_nothing_is_known_of_the_corpus(configured: Configure) -> None:
    config = configured(data={"path": None}, model={"vocabulary": 257})
    found = plan(config, 256)
    assert found.corpus is None
    assert {moment.leftover for moment in found.curve} == {None}


def walked(config: Config, sequences: int | None, *, calm: bool) -> dict[str, Any]:
    """Every figure of a plan, by going through all steps one by one."""
    schedule = config.schedule(sequences)
    ledger = None
    if sequences is not None:
        batch = config.batch
        spacing = reuse_spacing(batch.reuse_after, schedule.most_rows, sequences)
        ledger = Ledger.start(
            sequences=sequences,
            full_length=config.model.length,
            reuse_after=spacing,
            leftovers=batch.leftovers,
        )
    moments: list[PlanPoint] = []
    flops = 0
    for counters, shape in steps(schedule, calm=calm):
        if ledger is not None:
            _, ledger = ledger.take(shape.rows, shape.length)
        flops += cost.flops(config.model, shape.rows, shape.length)
        leftover = None if ledger is None else ledger.leftover
        after = schedule.after(counters, shape)
        moment = PlanPoint(
            after.step, after.tokens, shape.length, shape.rows, shape.learning_rate, flops
        )
        moments.append(replace(moment, leftover=leftover))
    late = [one for one in moments if one.step > schedule.warmup_steps]
    falls = schedule.rate_schedule != "constant"
    lowest = [one for one in late if falls and one.tokens_before >= schedule.decay_tokens]
    full = [one for one in moments if one.length == schedule.full_length]
    kept = [one for one in moments if one in (*full[:1], *lowest[:1], moments[-1])]
    every = max(1, schedule.budget // 200)
    kept += [one for one in moments if one.step in (1, schedule.warmup_steps)]
    kept += [one for one in moments if one.tokens_before < schedule.decay_start <= one.tokens]
    kept += [one for one in moments if one.tokens_before // every < one.tokens // every]
    shapes = Counter((one.rows, one.length) for one in moments)
    warm = [one.tokens for one in moments if one.step <= schedule.warmup_steps]
    figures: dict[str, Any] = {
        "curve": tuple(sorted(set(kept), key=lambda one: one.step)),
        "shapes": list(shapes.items()),
        "full": next(iter(full), None),
        "lowest": next(iter(lowest), None),
        "warmup_tokens": max(warm, default=0),
        "corpus": None,
    }
    if ledger is not None:
        epochs = (moments[-1].tokens + ledger.dropped) / (ledger.sequences * ledger.full_length)
        most = max(one.leftover or 0 for one in moments)
        figures["corpus"] = Corpus(epochs, ledger.unread, ledger.leftover, most, ledger.dropped)
    return figures


pacings = st.one_of(
    st.just({"kind": "constant"}),
    st.fixed_dictionaries(
        {"kind": st.just("linear"), "start": st.integers(1, 64), "duration": st.integers(0, 40)}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("root"), "start": st.just(7), "duration": st.integers(0, 40)}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("doubling"),
            "start": st.sampled_from([5, 8, 64]),
            "duration": st.integers(0, 40),
        }
    ),
    st.just({"kind": "staged", "values": [16, 40, 64], "boundaries": [7, 20]}),
    st.just({"kind": "staged", "values": [8, 48], "boundaries": [9]}),
    st.just({"kind": "linear", "of": "rows", "start": 1, "duration": 20}),
    st.fixed_dictionaries(
        {"kind": st.just("adaptive"), "start": st.just(8), "every": st.integers(1, 5)}
    ),
)


@given(
    pacing=pacings,
    hold=st.sampled_from(["rows", "tokens"]),
    leftovers=st.sampled_from(["requeue", "drop", "in_place"]),
    rows=st.integers(1, 9),
    budget=st.integers(576, 60_000),
    warmup=st.sampled_from([0, 1, 12, 10_000]),
    decay=st.none() | st.integers(1, 70_000),
    kind=st.sampled_from(get_args(RateSchedule)),
    sequences=st.none() | st.integers(1, 60) | st.just(5000),
    calm=st.booleans(),
)
def test_a_plan_is_what_a_walk_through_every_step_finds(
    configured: Configure,
    pacing: dict[str, Any],
    hold: str,
    leftovers: str,
    rows: int,
    budget: int,
    warmup: int,
    decay: int | None,
    kind: RateSchedule,
    sequences: int | None,
    calm: bool,
) -> None:
    if leftovers == "in_place":
        pacing = {"kind": "doubling", "start": 2 ** (rows % 7), "duration": warmup % 40}
        hold = "tokens"
    by_rows = pacing.get("of") == "rows"
    config = configured(
        data={"path": None},
        model={"vocabulary": 257},
        pacing=pacing,
        batch={"rows": rows, "hold": "rows" if by_rows else hold, "leftovers": leftovers},
        budget={"tokens": budget},
        optimizer={"warmup_steps": warmup, "decay_tokens": decay, "schedule": kind},
    )
    found = plan(config, 256, sequences, calm=calm)
    expected = walked(config, sequences, calm=calm)
    figures = {**vars(found), "shapes": list(found.shapes.items())}
    assert {name: figures[name] for name in expected} == expected


LONG: dict[str, dict[str, Any]] = {
    "linear": {},
    "dropped": {"pacing": {"duration": 10**6}, "batch": {"leftovers": "drop"}},
    "rows paced": {"pacing": {"of": "rows", "start": 1, "end": 4, "duration": 10**7}},
    "adaptive": {"pacing": {"kind": "adaptive"}},
    "epochs": {"budget": {"epochs": 2e5}},
}


@pytest.mark.parametrize("changes", LONG.values(), ids=LONG.keys())
def test_ten_billion_tokens_of_small_steps_cost_few_takes(
    configured: Configure, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    takes: list[int] = []
    take = Ledger.take

    def counted_take(ledger: Ledger, rows: int, length: int) -> Any:
        takes.append(rows)
        return take(ledger, rows, length)

    monkeypatch.setattr(Ledger, "take", counted_take)
    base = {"batch": {"rows": 4}, "budget": {"tokens": 10**10}}
    config = settings.with_overrides(configured(**base), changes)
    found = planned(config)
    assert found.steps > 10**7
    assert len(takes) < 2000


def test_a_plan_that_goes_through_many_short_steps_says_where_it_is(configured: Configure) -> None:
    progress: list[int] = []
    config = configured(pacing={"duration": 9000}, budget={"tokens": 2 * 10**6})
    config, _, sequences = bound(config)
    plan(config, 256, sequences, progress=progress.append)
    assert len(progress) >= 4
    assert progress == sorted(progress)

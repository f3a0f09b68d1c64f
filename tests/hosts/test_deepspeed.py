"""DeepSpeed 0.19.8: its scheduler beside what `import-config` reads; a loop of its engine."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.config.deepspeed import imported
from lengthen.run.metrics import read_metrics
from tests import ranks
from tests.config.test_deepspeed import PUBLIC, block, inner_of, legacy
from tests.integrations.reference import SAME, Ours, config_of, joined, trained

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]

EDGES = {
    "start below a multiple": legacy(block(9, 1000, 1500, multiple=16)),
    "root": legacy(block(8, 2048, 3000, degree=2)),
    "root, odd": legacy(block(100, 777, 1234, multiple=64, degree=3)),
}


@pytest.mark.parametrize("name", [*PUBLIC, *EDGES])
def test_every_length_is_that_of_its_own_scheduler(name: str, tmp_path: Path) -> None:
    from deepspeed.runtime.data_pipeline.curriculum_scheduler import CurriculumScheduler

    config: dict[str, Any] = {**PUBLIC, **EDGES}[name]
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps(config))
    found, scheduler = imported(path), CurriculumScheduler(inner_of(config))
    last = found.pacing.duration + 200
    steps = range(1, last, max(1, last // 20_000))
    assert [found.theirs(k) for k in steps] == [scheduler.get_difficulty(k) for k in steps]


# The example


@pytest.fixture(scope="module")
def ours(store: Path) -> Ours:
    return trained(config_of(store))


def read(out: Path, number: int) -> Any:
    return json.loads((out / f"rank-{number}.json").read_text())


@pytest.mark.ranks
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_engine_with_zero_trains_our_own_trainers_tokens_and_resumes_exactly(
    store: Path, tmp_path: Path, ours: Ours, world_size: int
) -> None:
    from tests.hosts.engine import rank

    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        out.mkdir()
    ranks.finish(ranks.start(*[partial(rank, store, one, None)] * world_size))
    seen = joined([read(one, number) for number in range(world_size)], 2)
    assert [step[0] for step in seen] == [step[0] for step in ours.rows]
    lines = read_metrics(one / "run").steps
    for line, own in zip(lines, ours.records, strict=True):
        assert [getattr(line, name) for name in SAME] == [getattr(own, name) for name in SAME]
        assert line.loss == pytest.approx(own.loss, rel=1e-5)
        assert line.lr == pytest.approx(own.lr, rel=1e-6)
        assert line.grad_norm == pytest.approx(own.grad_norm, rel=1e-3)
    # Stopped in its eighth step, it goes on from the sixth.
    ranks.finish(ranks.start(*[partial(rank, store, two, 7)] * world_size))
    ranks.finish(ranks.start(*[partial(rank, store, two, None)] * world_size))
    again = read_metrics(two / "run").steps
    assert [(line.step, line.loss) for line in again] == [(line.step, line.loss) for line in lines]
    weights, others = (torch.load(out / "rank-0.pt") for out in (one, two))
    assert all(torch.equal(weights[name], others[name]) for name in weights)

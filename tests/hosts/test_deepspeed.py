"""DeepSpeed 0.19.8: its own scheduler beside what `import-config` reads out of its files."""

import json
from pathlib import Path
from typing import Any

import pytest

from lengthen.config.deepspeed import imported
from tests.config.test_deepspeed import PUBLIC, block, inner_of, legacy

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

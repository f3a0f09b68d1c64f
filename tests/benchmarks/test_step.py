"""The processes that `benchmarks.step` has take turns."""

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import step
from benchmarks.contender import Setting
from benchmarks.step import REPOSITORY, contender, measured, real_store
from lengthen.data.readers import LeftOut, read_documents
from lengthen.data.sources import find_sources


def test_a_clone_without_the_shared_texts_has_a_text_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "REPOSITORY", tmp_path)  # beside which there is none
    source = find_sources([step.text(tmp_path)])[0]
    part = next(read_documents(source, "text", LeftOut("skip")))
    assert part.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length"),
    [("ours", 64), ("bare", 64), ("transformers", 64), ("bare", 1088), ("transformers", 1088)],
)
def test_a_contender_takes_a_step_when_it_is_asked(name: str, length: int) -> None:
    with real_store() as folder, contender(REPOSITORY) as process:
        setting = Setting(name, "bf16", length, 2 * length, str(folder / "store"), pass_tokens=128)
        assert process.ask(make=asdict(setting)) > 0
        assert process.ask(step=True) > 0
        assert process.ask(peak=True) > 1e8


@pytest.mark.slow
def test_the_table_has_a_row_for_each_and_a_ratio_for_all_but_ours() -> None:
    with real_store() as folder:
        settings = {
            name: Setting(name, "fp32", 64, 256, str(folder / "store")) for name in ("ours", "bare")
        }
        ours, bare = measured({n: (s, REPOSITORY) for n, s in settings.items()}, rounds=1)
    assert ours.ratio is None
    assert bare.ratio is not None
    assert min(ours.speed, bare.speed, ours.gigabytes, bare.start) > 0


@pytest.mark.slow
def test_a_contender_that_fails_says_why(tmp_path: Path) -> None:
    setting = Setting("ours", "fp32", 64, 256, str(tmp_path / "none"))
    with contender(REPOSITORY) as process, pytest.raises(ChildProcessError, match="no token store"):
        process.ask(make=asdict(setting))

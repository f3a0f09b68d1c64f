"""A Python function as the pacing of our own trainer: trained, recorded, resumed with it again."""

import json
import tomllib
from pathlib import Path

import pytest

from lengthen.config.load import load, load_run, with_overrides
from lengthen.core.custom_pacing import Custom, settings_of
from lengthen.exchange.export import export
from lengthen.exchange.pretrained import read
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.branch import branch
from lengthen.training.start import resume, train
from lengthen.util.errors import SettingError
from tests.conftest import Configure


def by_threes(step: int) -> int:
    return min(64, 8 + 8 * (step // 3))


def test_a_run_with_a_function_resumes_with_the_same_one_alone(
    configured: Configure, tmp_path: Path
) -> None:
    pacing = Custom(by_threes, end=64)
    config = with_overrides(configured(budget={"tokens": 2_000}), {"pacing": pacing})
    paths = RunPaths(tmp_path / "run")
    train(config, paths.root, quiet=True)
    table = tomllib.loads(paths.config.read_text(encoding="utf-8"))["pacing"]
    assert table["function"] == f"{__name__}.by_threes"
    more = {"budget": {"tokens": 4_000}}
    with pytest.raises(SettingError, match=r"^pacing.kind: a settings file cannot hold a function"):
        resume(paths.root, settings=more, quiet=True)
    other = Custom(lambda step: min(64, 8 + 8 * (step // 2)), end=64)
    with pytest.raises(SettingError, match=r"^pacing.function: gives other values than those of"):
        resume(paths.root, settings={**more, "pacing": other}, quiet=True)
    again = Custom(by_threes, end=64)
    resume(paths.root, settings={**more, "pacing": again}, quiet=True)
    steps = read_metrics(paths.metrics).steps
    assert [step.length for step in steps] == [by_threes(number) for number in range(len(steps))]
    newest = max(paths.checkpoints.glob("step-*"))
    state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    assert state["pacing_values"] == pacing.record(len(steps))


def test_a_run_with_a_function_is_opened_exported_and_resumed_by_train(
    configured: Configure, tmp_path: Path
) -> None:
    pacing = Custom(by_threes, end=64)
    config = with_overrides(configured(budget={"tokens": 2_000}), {"pacing": pacing})
    run = tmp_path / "run"
    train(config, run, data=config.data.path, quiet=True)
    assert load_run(run / "config.toml").tables()["pacing"] == settings_of(pacing)
    assert read(run).shape.vocabulary == 257
    export(run, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert f"function {__name__}.by_threes" in card
    assert train(config, run, resume="auto", quiet=True).tokens == 2_000


def test_a_file_with_a_function_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = 'recipe = "laptop-2min"\n[pacing]\nkind = "custom"\nfunction = "mine.curve"\n'
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError) as error:
        load(str(file))
    assert str(error.value).startswith(
        "pacing.kind: a settings file cannot hold a function, got 'custom'; give it in Python: "
    )


@pytest.mark.parametrize("how", ["resume", "branch"])
def test_a_run_goes_on_with_a_function_though_it_began_without_one(
    configured: Configure, tmp_path: Path, how: str
) -> None:
    trunk, new = tmp_path / "trunk", tmp_path / "new"
    begun = train(configured(budget={"tokens": 2_000}), trunk, quiet=True).steps

    def go_on(pacing: Custom) -> None:
        settings = {"pacing": pacing, "budget.tokens": 4_000}
        if how == "resume":
            resume(trunk, settings=settings, quiet=True)
        else:
            branch(trunk, new, settings=settings, quiet=True)

    go_on(Custom(by_threes, end=64))
    run = trunk if how == "resume" else new
    steps = read_metrics(run).steps
    assert [s.length for s in steps[begun:]] == [by_threes(s.step - 1) for s in steps[begun:]]
    other = {"pacing": Custom(lambda _: 64, end=64), "budget.tokens": 6_000}
    with pytest.raises(SettingError, match=r"^pacing.function: gives other values"):
        branch(run, tmp_path / "other", settings=other, quiet=True)
    assert not (tmp_path / "other").exists()

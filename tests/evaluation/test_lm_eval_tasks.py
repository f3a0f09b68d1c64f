"""lm-eval with our model behind it."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lengthen.evaluation import lm_eval_tasks as harness
from lengthen.evaluation.generate import generate
from lengthen.evaluation.lm_eval_adapter import Adapter
from lengthen.util.errors import DataError, SettingError
from tests.evaluation.made import tiny_subject
from tests.exchange.made import TINY, saved_run

SUBJECT = tiny_subject(length=128)
# They warn about each other, and about what they will drop one day.
pytestmark = pytest.mark.filterwarnings("ignore")

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {file}}}, cache_dir: {cache}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "Question: {{{{goal}}}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{{{[sol1, sol2]}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a task of one's own."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"goal": f"{n}", "sol1": "a", "sol2": "bcd", "label": n % 2} for n in range(9)]
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text = TASK.format(file=file, cache=folder / "cache")
    (folder / "tiny.yaml").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("DISABLE_MULTIPROC", "1")
        yield folder


def asked(*args: object) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def test_a_task_of_lm_eval_gives_an_outcome(include: Path) -> None:
    (outcome,) = harness.run(SUBJECT, ["tiny_choice"], include, limit=7)
    assert (outcome.task, outcome.items) == ("lm-eval:tiny_choice", 7)
    assert outcome.tokens == 7 * (2 + 4)
    assert [measure.name for measure in outcome.measures] == ["acc", "acc_norm"]
    for measure in outcome.measures:
        wanted = math.sqrt(measure.value * (1 - measure.value) / 6)
        assert measure.error == pytest.approx(wanted)


def test_lm_eval_and_we_give_the_same_figures(include: Path) -> None:
    choice, wanted = (
        import_module("lengthen.evaluation.choice"),
        import_module("lengthen.evaluation.options"),
    )
    ours = choice.choose("piqa", SUBJECT, wanted.Wanted(sets=include / "rows.jsonl"))
    (theirs,) = harness.run(SUBJECT, ["tiny_choice"], include)
    assert [m.value for m in ours.measures] == [m.value for m in theirs.measures]


def test_random_numbers_are_the_callers(include: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    harness.run(SUBJECT, ["tiny_choice"], include, limit=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_task_that_fails_is_one_line(include: Path, tmp_path: Path) -> None:
    broken = (include / "tiny.yaml").read_text().replace("rows.jsonl", "none.jsonl")
    (tmp_path / "tiny.yaml").write_text(broken, encoding="utf-8")
    with pytest.raises(DataError, match="lm-eval: task tiny_choice failed") as raised:
        harness.run(SUBJECT, ["tiny_choice"], tmp_path)
    assert "\n" not in str(raised.value)


@pytest.fixture
def own_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out lm-eval's own tasks, which take seconds to find."""
    tasks = import_module("lm_eval.tasks")
    manager = tasks.TaskManager

    def only_given(**options: Any) -> Any:
        return manager(**(options | {"include_defaults": False}))

    monkeypatch.setattr(tasks, "TaskManager", only_given)


@pytest.mark.usefixtures("own_tasks_alone")
def test_f56_a_task_that_is_none_is_one_line(include: Path) -> None:
    with pytest.raises(SettingError, match="no such task, got 'tiny_choise'; did you mean"):
        harness.run(SUBJECT, ["tiny_choise"], include)


def test_f53_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(
        SettingError, match="need the package lm_eval; pip install 'lengthen.eval.'"
    ):
        harness.run(SUBJECT, ["piqa"])


def test_the_registry_knows_the_model_by_its_name(tmp_path: Path) -> None:
    harness.register()
    harness.register()  # twice does no harm
    model = import_module("lm_eval.api.registry").get_model("lengthen")
    run = saved_run(tmp_path / "run", TINY)
    loaded = model.create_from_arg_string(f"path={run},precision=fp64", {"batch_size": 1})
    assert isinstance(loaded, import_module("lm_eval.api.model").LM)
    assert loaded.subject.model.tokens.weight.dtype == torch.float64


# lm-eval's command line without its own tasks, which it takes seconds to find.
COMMAND_LINE = """
import functools, runpy, sys, lm_eval.tasks
lm_eval.tasks.TaskManager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
runpy.run_module("lengthen.evaluation.lm_eval_tasks", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_the_command_line_says_in_one_line_what_is_wrong_with_a_run(
    include: Path, tmp_path: Path
) -> None:
    options = ["--model", "lengthen", "--model_args", f"path={tmp_path}"]
    options += ["--tasks", "tiny_choice", "--include_path", str(include), "--limit", "1"]
    command = [sys.executable, "-c", COMMAND_LINE, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("lengthen: RUN: must be a run")
    assert "Traceback" not in done.stderr


def test_a_rolling_text_is_the_sum_of_its_windows() -> None:
    text = "words and words " * 20
    (found,) = Adapter(SUBJECT).loglikelihood_rolling([asked(text)])
    ids = torch.tensor([256, *text.encode()])
    whole = ids.unfold(0, 129, 128)
    log_p = SUBJECT.model.logits(whole[:, :-1]).log_softmax(dim=2)
    total = float(log_p.gather(2, whole[:, 1:, None]).sum())
    rest = (len(ids) - 1) % 128
    last = ids[-129:]
    log_p = SUBJECT.model.logits(last[None, :-1])[0].log_softmax(dim=1)
    total += float(log_p.gather(1, last[1:, None])[-rest:].sum())
    assert found == pytest.approx(total, rel=1e-12)


def test_texts_are_generated_up_to_their_own_stops() -> None:
    options = [{"until": ["\n"], "max_gen_toks": 5}, {"until": "x", "max_new_tokens": 7}]
    found = Adapter(SUBJECT).generate_until([asked("a", options[0]), asked("", options[1])])
    first = generate(SUBJECT, [tuple(b"a")], stops=["\n"], most=5)
    second = generate(SUBJECT, [(256,)], stops=["x"], most=7)
    assert found == [*first, *second]


def test_what_lm_eval_may_ask_and_we_cannot_do_is_one_line() -> None:
    adapter = Adapter(SUBJECT)
    with pytest.raises(DataError, match="draws its answers"):
        adapter.generate_until([asked("a", {"do_sample": True})])
    with pytest.raises(DataError, match=r"wants 256 new tokens, .* \(128\)"):
        adapter.generate_until([asked("a", {})])
    with pytest.raises(DataError, match=r"an answer of 200 tokens exceeds .* \(128\)"):
        adapter.loglikelihood([asked("a", "b" * 200)])

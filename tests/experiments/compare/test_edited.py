"""A comparison whose file is edited between two calls gives what a new directory gives, or refuses.

Runs are really trained, in this process instead of one of their own: training depends on the
configuration alone, so a configuration that was trained once is copied. One test goes through real
processes.
"""

import json
import operator
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.data.prepare import prepare
from lengthen.experiments.compare import compare as whole
from lengthen.experiments.compare.declared import declare
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.compare.outcomes import notes, read_outcomes
from tests.experiments.conftest import facts_of

FILE = """
baseline = "baseline"
seeds = [0, 1]
data.path = "{store}"
model = {{ layers = 1, width = 16, heads = 2, length = 64 }}
pacing.kind = "constant"
batch = {{ rows = 8, micro_tokens = 512 }}
optimizer.learning_rate = 1e-2
budget.tokens = 1600
evaluation.tokens = 512
evaluation.probe_every_steps = 1
saving = {{ every_steps = 0, keep = 1 }}

[variants.baseline]
[variants.slw]
pacing = {{ kind = "linear", start = 8, duration = 8 }}
"""
FIGURE = re.compile(r"\d+\.\d+")
TOP = "seeds ="  # where further settings of the base are put
GRID = "[[grid]]\nbatch.rows = [8, 4]\noptimizer.clip = [1.0, {second}]\n"
ROWS = '[variants.rows]\nsame_tokens_as = "slw"\n'
FLOPS = {TOP: 'flops = "{0}M"\nseeds =', "heads = 2": "heads = 2, vocabulary = 257"}


@dataclass(frozen=True)
class Text:
    """A comparison file: what is replaced in FILE, and what stands behind it."""

    replaced: Mapping[str, str]
    more: str = ""

    def write(self, path: Path, store: Path) -> Path:
        text = FILE.format(store=store)
        for old, new in self.replaced.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text + self.more, encoding="utf-8")
        return path


def top(line: str) -> Text:
    return Text({TOP: f"{line}\n{TOP}"})


def more(text: str) -> Text:
    return Text({}, text)


PLAIN = Text({})
SWAPPED = Text({"[variants.baseline]": "[variants.x]", "[variants.slw]": "[variants.baseline]"})
EQUAL, AMENDED = "equal", "amended"
# What was called before, what is called now, and what comes of it.
EDITS: dict[str, tuple[Text, Text, str]] = {
    "the decay is deleted": (top("optimizer.decay_tokens = 900"), PLAIN, "optimizer.decay_tokens"),
    "the decay is added": (PLAIN, top("optimizer.decay_tokens = 900"), "optimizer.decay_tokens"),
    "the decay is what it was by itself": (PLAIN, top("optimizer.decay_tokens = 1600"), AMENDED),
    "evaluations are deleted": (
        top("evaluation.every_tokens = 500"),
        PLAIN,
        "evaluation.every_tokens",
    ),
    "evaluations are added": (PLAIN, top("evaluation.every_steps = 1"), "evaluation.every_steps"),
    "evaluations count steps": (
        top("evaluation.every_tokens = 500"),
        top("evaluation.every_steps = 1"),
        "evaluation.every_steps",
    ),
    "a default is relied upon": (top("run.on_nonfinite = 'skip'"), PLAIN, "run.on_nonfinite"),
    "the budget grows": (PLAIN, Text({"= 1600": "= 2000"}), "budget.tokens"),
    "the budget is in passes": (PLAIN, Text({"tokens = 1600": "epochs = 0.03"}), "budget.epochs"),
    "the decay of a budget in passes is deleted": (
        Text({"budget.tokens = 1600": "budget.epochs = 0.03\noptimizer.decay_tokens = 900"}),
        Text({"budget.tokens = 1600": "budget.epochs = 0.03"}),
        "optimizer.decay_tokens",
    ),
    "the arithmetic grows": (
        Text({old: new.format(60) for old, new in FLOPS.items()}),
        Text({old: new.format(70) for old, new in FLOPS.items()}),
        "budget.tokens",
    ),
    "a setting of a variant is deleted": (more("optimizer.clip = 0.5\n"), PLAIN, "optimizer.clip"),
    "a variant is paced otherwise": (PLAIN, Text({"start = 8": "start = 16"}), "pacing.start"),
    "a control follows another variant": (
        more(ROWS),
        Text({"duration = 8": "duration = 16"}, ROWS),
        "pacing.duration",
    ),
    "a variant is added": (PLAIN, more("[variants.third]\noptimizer.clip = 0.5\n"), AMENDED),
    "a variant is removed": (more("[variants.third]\noptimizer.clip = 0.5\n"), PLAIN, AMENDED),
    "names are swapped": (
        PLAIN,
        Text({**SWAPPED.replaced, "[variants.x]": "[variants.slw]"}),
        "pacing.kind",
    ),
    "another baseline": (PLAIN, Text({'= "baseline"': '= "slw"'}), AMENDED),
    "a seed is added": (PLAIN, Text({"[0, 1]": "[2, 0, 1]"}), AMENDED),
    "a seed is removed": (PLAIN, Text({"[0, 1]": "[1]"}), AMENDED),
    "a grid is added": (PLAIN, more(GRID.format(second=1.0)), AMENDED),
    "what moves along the grid": (
        more(GRID.format(second=1.0)),
        more(GRID.format(second=0.5)),
        "optimizer.clip",
    ),
    "the recipe changes": (
        top('recipe = "laptop-2min"'),
        top('recipe = "laptop-10min"'),
        "evaluation.every_tokens",
    ),
    "the vocabulary is stated": (
        PLAIN,
        Text({"heads = 2": "heads = 2, vocabulary = 257"}),
        AMENDED,
    ),
    "the device is left open": (top('run.device = "cpu"'), PLAIN, EQUAL),
    "passes become smaller": (PLAIN, Text({"micro_tokens = 512": "micro_tokens = 256"}), "rounded"),
    "passes are left open": (PLAIN, Text({", micro_tokens = 512": ""}), EQUAL),
}


@pytest.fixture
def here(in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train runs in this process, and write no page."""
    monkeypatch.setattr(whole, "write", lambda *_, **__: None)


def call(file: Path, out: Path, *words: str) -> int:
    return main(["compare", str(file), "--out", str(out), "--quiet", *words])


def nearly(one: object, other: object) -> bool:
    """Whether both say the same, each figure to a hundredth: correlations magnify rounding."""
    texts = json.dumps(one), json.dumps(other)
    words = [FIGURE.split(text) for text in texts]
    ours, theirs = ([float(figure) for figure in FIGURE.findall(text)] for text in texts)
    return words[0] == words[1] and ours == pytest.approx(theirs, abs=0.0101)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.usefixtures("here")
def test_an_edited_comparison_gives_what_a_new_directory_gives_or_is_refused(
    edit: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, comes_to = EDITS[edit]
    file, out, new = tmp_path / "small.toml", tmp_path / "out", tmp_path / "new"
    assert call(before.write(file, store), out) == 0
    after.write(file, store)
    capsys.readouterr()
    if comes_to in (EQUAL, AMENDED, "rounded"):
        assert call(file, new) == 0
        if comes_to == AMENDED:
            declared = (out / "small.declared.jsonl").read_bytes()
            for words in ([], ["--look"]):
                assert call(file, out, *words) == 2
                assert capsys.readouterr().err.endswith(
                    "; --amend goes on, and the verdicts say so\n"
                )
            assert (out / "small.declared.jsonl").read_bytes() == declared
            assert call(file, out, "--amend") == 0
        for words in ([], ["--look"]):
            assert call(file, out, *words) == 0
            alike = nearly if comes_to == "rounded" else operator.eq
            assert alike(facts_of(out), facts_of(new))
            told = (out / "small.json").read_text(encoding="utf-8")
            assert told.count("Amended") == (comes_to == AMENDED)
        return
    for words in ([], ["--look"]):
        assert call(file, out, *words) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert f"lengthen: {comes_to}: " in line
        assert line.endswith("choose another --out, or remove that run")


@pytest.mark.usefixtures("here")
def test_another_store_in_its_place_is_refused_with_all_runs_finished(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not where the store is gone: what is finished needs none."""
    file, out = PLAIN.write(tmp_path / "small.toml", store), tmp_path / "out"
    assert call(file, out) == 0
    text = tmp_path / "other.txt"
    text.write_text("Another text, and not a long one.\n" * 900)
    prepare([str(text)], tmp_path / "other", tokenizer="bytes", valid=0.1, quiet=True)
    capsys.readouterr()
    for words in ([], ["--look"]):
        assert call(file, out, "--data", str(tmp_path / "other"), *words) == 2
        assert "was trained on store" in capsys.readouterr().err
        assert call(file, out, "--data", str(tmp_path / "gone"), *words) == 0


@pytest.mark.usefixtures("here")
def test_a_budget_in_passes_is_looked_at_without_naming_the_store_while_it_is_there(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(store, tmp_path / "store")
    passes = Text({"tokens = 1600": "epochs = 0.03"})
    out = tmp_path / "out"
    assert call(passes.write(tmp_path / "small.toml", moved), out) == 0
    file = Text({**passes.replaced, f'data.path = "{store}"': ""}).write(
        tmp_path / "small.toml", store
    )
    assert call(file, out, "--look") == 0
    moved.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert call(file, out, "--look") == 3
    assert str(moved) in capsys.readouterr().err
    assert call(file, out, "--look", "--data", str(tmp_path / "elsewhere")) == 0


@pytest.mark.usefixtures("here")
def test_a_run_that_died_before_its_first_step_is_held_to_the_file_too(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "small.toml", tmp_path / "out"
    assert call(top("evaluation.every_tokens = 500").write(file, store), out) == 0
    for run in (out / "runs").glob("*/seed-*"):
        if run.is_dir():
            (run / "metrics.jsonl").unlink()
            shutil.rmtree(run / "checkpoints")
    capsys.readouterr()
    assert call(PLAIN.write(file, store), out) == 2
    assert "evaluation.every_tokens: " in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_crash_under_settings_that_the_file_no_longer_has_is_no_result(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    file, out = tmp_path / "small.toml", tmp_path / "out"
    assert call(more('run.compile = "on"\n').write(file, store), out) == 0
    assert "slw/seed-1 crashed: run.compile: " in capsys.readouterr().out
    declare(read_comparison(PLAIN.write(file, store)), out, amend=True)
    assert call(file, out, "--look") == 0
    assert "2 runs still to be finished" in (printed := capsys.readouterr().out)
    assert "crashed" not in printed
    assert call(file, out) == 0
    assert call(file, tmp_path / "new") == 0
    assert facts_of(out) == facts_of(tmp_path / "new")


@pytest.mark.usefixtures("here")
def test_a_run_that_somebody_resumed_with_other_settings_on_the_way_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = PLAIN.write(tmp_path / "small.toml", store), tmp_path / "out"
    assert call(file, out) == 0
    log = out / "runs/slw/seed-1/metrics.jsonl"
    event = {"kind": "event", "event": "resumed", "step": 0, "tokens": 0, "discarded_lines": 0}
    harmless = {"data": {"path": "elsewhere"}, "batch": {"micro_tokens": 64}}
    lines = log.read_text()
    log.write_text(json.dumps({**event, "overrides": harmless}) + "\n" + lines)
    assert call(file, out) == 0
    log.write_text(json.dumps({**event, "overrides": {"optimizer": {"clip": 0.1}}}) + "\n" + lines)
    capsys.readouterr()
    assert call(file, out) == 2
    assert "lengthen: optimizer.clip: " in (line := capsys.readouterr().err)
    assert "resumed with 0.1" in line


@pytest.mark.usefixtures("here")
def test_runs_of_other_versions_are_taken_over_and_said(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = PLAIN.write(tmp_path / "small.toml", store), tmp_path / "out"
    assert call(file, out) == 0
    told = facts_of(out)
    assert "taken over" not in capsys.readouterr().out
    for name, package in (
        ("slw/seed-0", "torch"),
        ("slw/seed-1", "torch"),
        ("baseline/seed-1", "lengthen"),
    ):
        place = out / "runs" / name / "environment.json"
        environment = json.loads(place.read_text())
        environment["packages"][package] = "0.0.1"
        place.write_text(json.dumps(environment))
    assert call(file, out) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "taken over" in line]
    assert len(lines) == 2
    first, second = sorted(lines)
    assert first.startswith("baseline/seed-1: taken over as trained, with lengthen 0.0.1 (now ")
    assert second.startswith("slw/seed-0 and 1 more: taken over as trained, with torch 0.0.1 (now ")
    assert facts_of(out) == told


@pytest.mark.usefixtures("here")
def test_memory_that_ran_out_in_a_run_does_not_end_the_comparison(
    store: Path, tmp_path: Path, ask_for: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, new = tmp_path / "small.toml", tmp_path / "out", tmp_path / "new"
    once = Text({"= 1600": "= 1700"})  # trained by no other test, so really here
    ask_for("step:2:oom")
    assert call(once.write(file, store), out) == 0
    ask_for("")
    printed = capsys.readouterr().out
    assert "baseline/seed-0: batch.micro_tokens is 256, the file asks for 512; equal" in printed
    assert call(file, out, "--look") == 0
    assert call(file, new, "--batch.micro_tokens", "256") == 0
    assert nearly(facts_of(out), facts_of(new))


def test_devices_are_said_where_runs_have_several(
    trained: tuple[Comparison, Path], tmp_path: Path
) -> None:
    comparison, root = trained
    shutil.copytree(root / "runs", tmp_path / "runs")
    assert notes(read_outcomes(comparison, tmp_path)[0]) == []
    for run in comparison.runs:
        card = "cpu" if run.seed == 1 else f"cuda:{run.seed}, NVIDIA H100 80GB HBM3"
        place = run.directory(tmp_path) / "environment.json"
        machine = {"device": card, "processor": "Xeon" if run.variant == "slw" else "EPYC"}
        place.write_text(json.dumps({**json.loads(place.read_text()), **machine}))
    assert notes(read_outcomes(comparison, tmp_path)[0]) == [
        "baseline/seed-0 and 1 more: computed on NVIDIA H100 80GB HBM3, EPYC",
        "slw/seed-0 and 1 more: computed on NVIDIA H100 80GB HBM3, Xeon",
        "baseline/seed-1: computed on cpu, EPYC",
        "slw/seed-1: computed on cpu, Xeon",
    ]


@pytest.mark.slow
def test_real_processes_add_a_seed_as_a_new_directory_has_it(store: Path, tmp_path: Path) -> None:
    file, out, new = tmp_path / "small.toml", tmp_path / "out", tmp_path / "new"
    one = Text({"[0, 1]": "[0]"})
    assert call(one.write(file, store), out) == 0
    assert call(PLAIN.write(file, store), out, "--amend") == 0
    assert call(file, new) == 0
    assert facts_of(out) == facts_of(new)

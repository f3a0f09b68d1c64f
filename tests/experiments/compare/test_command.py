"""A comparison over somebody else's command, which knows nothing of us."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import lengthen
from lengthen.cli.main import main
from lengthen.experiments.command import Command
from lengthen.experiments.compare.file import comparison_of
from lengthen.experiments.compare.outcomes import read_outcomes
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.util.errors import SettingError
from scripts.publish_runs import pack
from tests.experiments.conftest import status_of
from tests.ways_out import takes

# A training of somebody else: its losses are noise of the seed's and of its own, and what it does
# wrong is asked for by name. It appends to what it finds in its folder.
TRAINING = """
import os, random, sys, time
asked = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
gain, fate, pause = float(asked["gain"]), asked.get("fate", ""), float(asked.get("pause", 0))
shared, own = random.Random(asked["seed"]), random.Random(asked["seed"] + asked["name"])
noise = shared.gauss(0, 0.1) + own.gauss(0, 0.03)
with open("starts.txt", "a") as starts:
    starts.write(f"{asked['name']} {asked['seed']} {os.getpid()}\\n")
if fate == "silent":
    sys.exit()
with open(asked["out"] + "/log.csv", "a") as log:
    if not log.tell():
        log.write("iter,seen,train,val,elapsed\\n")
    for step in range(1, 1 + (8 if fate == "short" else 10)):
        if fate == "dies" and step == 7:
            raise RuntimeError("CUDA is tired")
        loss = float("nan") if fate == "nan" and step > 8 else 3 + 2 / step + noise - gain
        val = loss if step % 2 == 0 else ""
        log.write(f"{step},{step * 512},{loss},{val},{step / 4}\\n")
        log.flush()
        time.sleep(pause)
"""
WORDS = ["--gain={gain}", "--name={name}", "--seed={seed}", "--out={out}"]
LOG = {"file": "log.csv", "step": "iter", "tokens": "seen", "validation_loss": "val"}
PLANTED = {
    "theirs": {"gain": 0.0, "name": "theirs"},
    "better": {"gain": 0.2, "name": "better"},
    "equal": {"gain": 0.0, "name": "equal"},
}
Tables = dict[str, Any]


def asking(variants: Mapping[str, Tables] = PLANTED, *words: str, **more: Any) -> Tables:
    """A comparison file's tables over the training above, which lies in the caller's folder."""
    command = [sys.executable, "training.py", *WORDS, *words]
    return {"command": command, "seeds": [0], "log": LOG, "variants": dict(variants), **more}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caller's folder, which holds the training, and is left at the end."""
    (tmp_path / "training.py").write_text(TRAINING, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lengthen.experiments.runner.LOOK_SECONDS", 0.05)
    return tmp_path


def starts(folder: Path) -> Counter[str]:
    """How often each run was started, by its variant and seed."""
    lines = (folder / "starts.txt").read_text().splitlines()
    return Counter(line.rpartition(" ")[0] for line in lines)


def run_one(
    folder: Path, above: tuple[str, ...] = (), **more: Any
) -> tuple[Path, "subprocess.Popen[str]"]:
    """Start one run of the training as a comparison does; return its directory and process.

    With the words of a program `above` it, that is its parent and the process returned.
    """
    more = {"log": {**LOG, "loss": "train", "seconds": "elapsed"}, **more}
    tables = asking({"a": {"gain": 0, "name": "a", **more.pop("of", {})}}, **more)
    (run,) = comparison_of(tables, "question", {}).runs
    (folder / "seed-0.toml").write_text(run.asked.to_toml(), encoding="utf-8")
    words = [sys.executable, "-m", "lengthen.experiments.run_command", "seed-0.toml", "run"]
    with (folder / "seed-0.log").open("wb") as log:
        return folder / "run", subprocess.Popen([*above, *words], stdout=log, stderr=log, text=True)


def said(folder: Path) -> str:
    return (folder / "seed-0.log").read_text().splitlines()[-1]


def test_killed_it_goes_on_and_finds_what_was_planted(folder: Path) -> None:
    file, out = folder / "question.toml", folder / "out"
    tables = asking(PLANTED, "--pause=0.06", seeds=[0, 1, 2, 3, 4])
    file.write_text(tomli_w.dumps(tables), encoding="utf-8")
    words = [sys.executable, "-m", "lengthen", "compare", str(file), "--out", str(out)]
    process = subprocess.Popen([*words, "--jobs", "2"], stderr=subprocess.DEVNULL)
    while not (folder / "starts.txt").exists() or len(starts(folder)) < 4:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = starts(folder)
    result = lengthen.compare(file, out, jobs=4, quiet=True)
    after = starts(folder)
    assert len(after) == 15
    twice = {name for name in after if after[name] == 2}
    assert 0 < len(twice) <= 2  # those that ran when it was killed
    assert twice < before.keys()
    assert sum(after.values()) == 15 + len(twice)
    for log in out.rglob("log.csv"):
        assert log.read_text().count("\n1,512,") == 1  # the folder was empty when it began again
    assert result.missing == 0
    assert {line.partition(":")[0].partition(" by ")[0] for line in result.verdicts} == {
        "theirs is worse than better",
        "theirs and equal are not distinguishable",
        "better is better than equal",
    }
    pack(out, Path("out.tar.xz"))  # every reader has them as it has ours
    assert lengthen.compare(file, "out.tar.xz", look=True).verdicts == result.verdicts
    tables["primary"] = [["better", "theirs"]]
    file.write_text(tomli_w.dumps(tables), encoding="utf-8")
    primary = lengthen.compare(file, out, amend=True, quiet=True).verdicts
    assert primary[0].startswith("Amended")
    assert primary[1].startswith("better is better than theirs by 0.2")
    assert "exploratory" in primary[2]
    assert starts(folder) == after
    assert main(["report", "out", "--out", "page.html"]) == 0
    assert main(["watch", "out"]) == 0


def test_what_dies_is_silent_logs_nan_or_ends_early_is_said_and_never_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fates = ("fine", "dies", "silent", "nan", "short")
    variants = {fate: {"gain": 0.0, "name": "all", "fate": fate} for fate in fates}
    tables = asking(variants, "--fate={fate}", baseline="fine")
    result = lengthen.compare(tables, "out", jobs=5, quiet=True)
    lines = {line.partition("/")[0]: line.partition(" ")[2] for line in result.unfinished}
    printed = "all that it printed is in out/runs/dies/seed-0.log"
    message = f"the command ended with exit code 1: RuntimeError: CUDA is tired; {printed}"
    assert lines["dies"] == f"crashed: {message}"
    assert 'RuntimeError("CUDA is tired")' in Path("out/runs/dies/seed-0.log").read_text()
    assert lines["silent"].startswith("crashed: ")
    assert lines["silent"].endswith("the command's log cannot be read (No such file or directory)")
    assert lines["nan"] == "diverged: the last validation loss is not finite"
    assert lines["short"] == "at another budget: it ended at 4,096 tokens and not at 5,120"
    assert len(lines) == 4
    outcomes, missing = read_outcomes(comparison_of(tables, "comparison", {}), Path("out"))
    assert missing == 0
    assert [outcome.run.variant for outcome in outcomes if outcome.loss is not None] == ["fine"]
    assert [status_of(Path("out"), one.run).state for one in outcomes] == [
        "finished",
        "begun",
        "begun",
        "diverged",
        "finished",
    ]
    lengthen.compare(tables, "out", jobs=5, quiet=True)
    assert starts(folder) == {"all 0": 7}  # the dead and the silent one are tried again


def test_a_budget_is_held_to_where_evaluations_alone_have_tokens(folder: Path) -> None:
    tokens = "{step},{step * 512},,{val}"
    text = TRAINING.replace("{step},{step * 512},{loss},{val}", "{step},,{loss},,0\\n" + tokens)
    (folder / "training.py").write_text(text, encoding="utf-8")
    variants = {fate: {"gain": 0.0, "name": "all", "fate": fate} for fate in ("fine", "short")}
    tables = asking(variants, "--fate={fate}", log={**LOG, "loss": "train"})
    result = lengthen.compare(tables, "out", jobs=2, quiet=True)
    ended = "it ended at 4,096 tokens and not at 5,120"
    assert result.unfinished == (f"short/seed-0 at another budget: {ended}",)


def test_laid_out_it_is_carried_out_by_anybody_and_given_again_it_trains_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    variants = {**PLANTED, "theirs": {"gain": 0.0, "name": "dies"}}
    (folder / "ask.toml").write_text(tomli_w.dumps(asking(variants, "--fate={name}")))
    assert main(["compare", "ask.toml", "--lay-out", "laid"]) == 0
    lines = (folder / "laid/commands.txt").read_text().splitlines()
    capfd.readouterr()
    codes = [subprocess.run(line, shell=True, check=False).returncode for line in lines + lines[1:]]
    assert codes == [3, 0, 0, 0, 0]
    (line,) = [one for one in capfd.readouterr().err.splitlines() if one.startswith("lengthen: ")]
    assert line.endswith("the command ended with exit code 1: what it printed says why")
    assert starts(folder) == {"dies 0": 1, "better 0": 1, "equal 0": 1}


def test_a_command_or_placeholder_that_was_changed_since_is_refused(folder: Path) -> None:
    def of(gain: float = 0.0, word: str = "--x=1", **more: Any) -> Tables:
        return asking({"a": {"gain": gain, "name": "a"}}, word, **more)

    lengthen.compare(of(), "out", quiet=True)
    for changed, name in ((of(gain=0.1), "placeholders.gain"), (of(word="--x=2"), "command")):
        for amend in (False, True):
            with pytest.raises(
                SettingError, match=f"{name}: .* holds a run with .*--out, or remov"
            ):
                lengthen.compare(changed, "out", quiet=True, amend=amend)
    with pytest.raises(SettingError, match="seeds: was .* when runs were started.* --amend goes"):
        lengthen.compare(of(seeds=[0, 1]), "out", quiet=True)
    assert starts(folder) == {"a 0": 1}


PAUSED = [sys.executable, "training.py", *WORDS, "--pause={pause}"]


def records(directory: Path) -> Metrics:
    file = directory / "metrics.jsonl"
    return read_metrics(file) if file.exists() else Metrics((), 0)


def wait_for_a_step(directory: Path, process: "subprocess.Popen[str]") -> Metrics:
    while not (found := records(directory)).steps:
        assert process.poll() is None
        time.sleep(0.05)
    return found


def test_the_log_is_followed_while_it_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, process = run_one(folder, of={"pause": 0.3}, command=PAUSED)
    found = wait_for_a_step(directory, process)
    assert 0 < len(found.steps) < 10
    assert not found.events
    assert main(["watch", str(directory), "--once"]) == 0
    shown = capsys.readouterr().out
    assert f"running (pid {process.pid} on " in shown
    assert f"step {found.steps[-1].step}  tokens {found.steps[-1].tokens:,}  loss " in shown
    assert process.wait() == 0
    assert [(step.step, step.tokens) for step in records(directory).steps][-1] == (10, 5120)
    assert [step.seconds for step in records(directory).steps] == [n / 4 for n in range(1, 11)]
    assert [event.name for event in records(directory).events] == ["finished"]


@pytest.mark.parametrize("resumes", [False, True])
def test_a_command_cut_short_begins_anew_unless_it_resumes(folder: Path, resumes: bool) -> None:
    asked: Tables = {"command": PAUSED, "resumes": resumes}
    directory, process = run_one(folder, of={"pause": 0.3}, **asked)
    wait_for_a_step(directory, process)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not alive(folder)
    _, process = run_one(folder, of={"pause": 0}, **asked)
    assert process.wait() == 0
    assert len(records(directory).steps) == 10
    begun = (directory / "out" / "log.csv").read_text().count("\n1,512,")
    assert begun == (2 if resumes else 1)


SAVING = """
import signal, sys, time
def save(*_):
    time.sleep(0.5)
    open(asked["out"] + "/saved", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, save)
"""


# Like the first process of a container, to which all orphans come and which waits for none.
UNWAITING = """
import ctypes, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)
process = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: process.terminate())
sys.exit(process.wait())
"""


@pytest.mark.parametrize("above", [(), (sys.executable, "-c", UNWAITING)], ids=["init", "none"])
def test_what_a_shell_has_started_saves_though_the_shell_ends_at_once(
    folder: Path, above: tuple[str, ...]
) -> None:
    (folder / "training.py").write_text(SAVING + TRAINING, encoding="utf-8")
    words = ["sh", "-c", '"$@"; true', "sh", *PAUSED]
    directory, process = run_one(folder, above, of={"pause": 0.3}, command=words)
    wait_for_a_step(directory, process)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert (directory / "out/saved").exists()
    assert not alive(folder)


def test_a_command_ends_with_the_process_that_has_its_run(folder: Path) -> None:
    directory, process = run_one(folder, of={"pause": 0.3}, command=PAUSED)
    wait_for_a_step(directory, process)
    process.kill()
    process.wait()
    time.sleep(0.2)
    assert not alive(folder)


def alive(folder: Path) -> bool:
    """Whether the training that was started last still runs."""
    pid = (folder / "starts.txt").read_text().split()[-1]
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split()[2] != "Z"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            {"validation_loss": "vale"},
            "log.validation_loss: {log} has no such column, got 'vale'; did you mean 'val'?",
        ),
        ({"tokens": "loss"}, "log.tokens: {log} has no such column, got 'loss'; one of elapsed, "),
        ({"validation_loss": "empty"}, "log.validation_loss: {log} has no such column"),
        ({"file": "elsewhere.csv"}, "the command's log cannot be read (No such file"),
        ({"file": "."}, "{out}: has no rows"),
        (
            {"kind": "RunLog"},
            "RUN: has no metrics.jsonl, got '",
        ),  # a long path is cut in its middle
    ],
)
def test_a_log_without_what_is_named_is_refused_in_one_line(
    folder: Path, log: Tables, message: str
) -> None:
    given = {"kind": "RunLog"} if "kind" in log else {**LOG, "loss": "train", **log}
    directory, process = run_one(folder, log=given)
    assert process.wait() in (2, 3)
    out = directory / "out"
    assert message.format(log=out / "log.csv", out=out) in said(folder)
    assert "Traceback" not in (folder / "seed-0.log").read_text()
    assert not records(directory).events


def test_a_program_that_is_not_there_is_refused_once_before_any_run(folder: Path) -> None:
    command = ["no-such-program", *WORDS]
    with pytest.raises(SettingError, match="^command: must begin with a program that is there, go"):
        lengthen.compare(asking(command=command), "out", quiet=True)
    assert not Path("out").exists()
    _, process = run_one(folder, command=command)  # as somebody else's job of a layout has it
    assert process.wait() == 2
    gone = "lengthen: command: cannot start (No such file or directory), got 'no-such-program'"
    assert said(folder) == gone


def test_a_log_of_validation_losses_alone_is_enough(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = {name: PLANTED[name] for name in ("theirs", "better")}
    result = lengthen.compare(asking(two), "out", jobs=2, quiet=True)
    (results,) = [one for one in result.tables if one.title.startswith("Results")]
    stable = results.columns.index("stable seeds")
    assert [(row[1], row[stable]) for row in results.rows] == [("1 of 1", "-")] * 2
    assert main(["report", "out"]) == 0
    assert "no training loss is logged, which could tell its stability" in capsys.readouterr().out
    assert main(["watch", "out"]) == 0
    assert "step 10  tokens 5,120  valid " in capsys.readouterr().out


@takes('pip install "lengthen[trackers]"')
def test_files_of_tensorboard_are_read_by_its_own_reader(folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is a dev dependency")
    board = """
import sys
from torch.utils.tensorboard import SummaryWriter
asked = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
with SummaryWriter(asked["out"] + "/board") as writer:
    for step in range(1, 11):
        writer.add_scalar("loss/train", 5 / step, step)
        writer.add_scalar("tokens", 2**24 + 512 * step, step)
    writer.add_scalar("loss/valid", 3.25, 10)
"""
    (folder / "training.py").write_text(board, encoding="utf-8")
    tags = {"tokens": "tokens", "loss": "loss/train", "validation_loss": "loss/valid"}
    asked: Tables = {"log": {"kind": "TensorBoard", "file": "board", **tags}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorboard", None)
        with pytest.raises(SettingError, match="log.kind: needs the package tensorboard; pip inst"):
            lengthen.compare(asking(**asked), "out", quiet=True)
    directory, process = run_one(folder, **asked)
    assert process.wait() == 0, said(folder)
    found = records(directory)
    assert [step.loss for step in found.steps] == pytest.approx([5 / n for n in range(1, 11)])
    assert (found.evaluations[-1].loss, found.evaluations[-1].tokens) == (3.25, 2**24 + 5120)


def test_a_run_log_is_read_and_its_own_end_is_none_of_the_commands(folder: Path) -> None:
    ours = """
import sys, numpy, torch, lengthen
asked = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
plan = lengthen.DataPlan(pacing=lengthen.Constant(end=8), rows=2, budget=160)
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(model.parameters())
log = lengthen.RunLog(asked["out"], plan)
for step, _ in lengthen.BatchStream(numpy.arange(999), plan):
    log.step(step, loss=2.5, grad_norm=1.0, optimizer=optimizer)
log.evaluation(2.25)
log.finish()
sys.exit(int(asked["gain"]))
"""
    (folder / "training.py").write_text(ours, encoding="utf-8")
    for code in (3, 0):  # what has finished is not begun again
        directory, process = run_one(folder, log={"kind": "RunLog"}, of={"gain": code})
        process.wait()
        ended = [event.name for event in records(directory).events]
        assert ended == ["finished"] * (code == 0), said(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": "python train.py"}, "command: must be a list of words, such as"),
        ({"command": []}, "command: must be a list of words"),
        ({"command": ["t", "{out}"]}, "command: must have the placeholder {seed}"),
        ({"command": ["t", "{seed}"]}, "command: must have the placeholder {out}"),
        ({"command": ["t", "{seed} {out} {lr}"]}, "variants.a.lr: is missing; the command has"),
        (
            {"variants": {"a": {"lrr": 1}}, "command": ["t", "{seed} {out} {lr}"]},
            "variants.a.lrr: the command has no such placeholder, got 1; did you mean 'lr'?",
        ),
        ({"variants": {"a": {"seed": 1}}}, "variants.a.seed: the command has no such placeholder"),
        (
            {"variants": {"a": {"lr": True}}, "command": ["t", "{seed} {out} {lr}"]},
            "variants.a.lr: must be text or a number, got True",
        ),
        ({"recipe": "laptop-2min"}, "recipe: a comparison over a command has no such key"),
        ({"sedes": [1]}, "sedes: a comparison over a command has no such key, .*mean 'seeds'"),
        ({"flops": 1e9}, "flops: a comparison over a command has no such key"),
        ({"resumes": 1}, "resumes: must be true or false, got 1"),
        ({"log": None}, "log: must be a table that says where the command's log lies"),
        (
            {"log": {**LOG, "tokns": "t"}},
            "log.tokns: a log of kind 'table' has no such key, .*'tok",
        ),
        ({"log": {"file": "l", "step": "s"}}, "log.tokens: is missing; a log of kind 'table'"),
        ({"log": {**LOG, "step": 3}}, "log.step: must be a text, got 3"),
        (
            {"log": {**LOG, "file": "../l"}},
            "log.file: must lie below {out}, the folder of each run",
        ),
        ({"log": {**LOG, "file": "/l"}}, "log.file: must lie below {out}"),
        (
            {"log": {**LOG, "kind": "csv"}},
            "log.kind: no such kind, got 'csv'; one of table, Tensor",
        ),
        ({"log": {**LOG, "kind": ["table"]}}, "log.kind: no such kind, got .'table'.; one of"),
        ({"log": {**LOG, "kind": "RunLog"}}, "log.step: a log of kind 'RunLog' has no such key"),
        (
            {"grid": [{"rate": [1, 2]}]},
            "^grid.rate: the command has no such placeholder, got 1$",
        ),
        ({"grid": [{"rate": 1}]}, "^grid.rate: must be a list of values, got 1$"),
        (
            {"grid": [{"lr": [1, 2]}], "variants": {"a": {"lr": 3}}},
            "^variants.a.lr: is what the file varies in grid.lr, got 3$",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(change: Tables, message: str) -> None:
    tables = {"command": ["t", "{seed}", "{out}"], "log": LOG, "variants": {"a": {}}, **change}
    with pytest.raises(SettingError, match=message.replace("{", r"\{")):
        comparison_of({n: one for n, one in tables.items() if one is not None}, "question", {})


def test_settings_of_ours_are_none_of_a_command(folder: Path) -> None:
    for setting in ({"data": "store"}, {"settings": {"budget.tokens": 1000}}):
        with pytest.raises(SettingError, match="a comparison over a command has no such key"):
            lengthen.compare(asking(), "out", **setting)
    (folder / "question.toml").write_text(tomli_w.dumps(asking()), encoding="utf-8")
    with pytest.raises(SettingError, match="compares a command, whose cost nobody knows"):
        lengthen.plan("question.toml")
    assert not Path("out").exists()


def test_a_grid_and_the_variants_fill_the_placeholders() -> None:
    tables = asking({"a": {"name": "x y"}, "b": {"name": "{name}"}}, grid=[{"gain": [1e-3, 2]}])
    runs = comparison_of({**tables, "seeds": [7]}, "question", {}).runs
    assert [run.name for run in runs] == [
        "a/gain=0.001/seed-7",
        "b/gain=0.001/seed-7",
        "a/gain=2/seed-7",
        "b/gain=2/seed-7",
    ]
    (first, second, *_) = [run.asked for run in runs if isinstance(run.asked, Command)]
    assert first.words(Path("/o"))[2:] == ["--gain=0.001", "--name=x y", "--seed=7", "--out=/o"]
    assert second.words(Path("/o"))[3] == "--name={name}"  # filled once

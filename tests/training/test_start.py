"""A run against the disk and the clock of its machine: what it needs, what it does without."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import lengthen
from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import list_checkpoints, name_of
from lengthen.config.load import build, load, load_run, with_overrides
from lengthen.config.schema import Config
from lengthen.core.custom_pacing import settings_of
from lengthen.core.pacing import Constant, Linear
from lengthen.core.schedule import steps
from lengthen.data.open_store import open_store, with_store
from lengthen.data.prepare import prepare
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training.branch import branch
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from lengthen.util.errors import CheckpointError, DataError, SettingError, StorageError
from tests.checkpoint.test_kills import resumes_to_the_same_end
from tests.conftest import AskFor, Configure, in_a_child, trainer_of
from tests.training.test_resume import lines_of

NOBODY = 65534


def events(run: Path, name: str) -> list[int]:
    found = read_metrics(RunPaths(run).metrics).events
    return [event.step for event in found if event.name == name]


def saved(run: Path) -> list[str]:
    return [path.name for path in list_checkpoints(RunPaths(run).checkpoints)]


def test_f01_a_process_that_kills_itself_in_a_save_costs_only_that_save(
    configured: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    config = configured(budget={"tokens": 1_500}, saving={"every_steps": 2, "keep": 1})
    train(config, tmp_path / "unbroken", quiet=True)
    ask_for("save:25:kill")
    code = in_a_child(partial(train, config, tmp_path / "run", quiet=True))
    assert code == -signal.SIGKILL
    ask_for("")
    assert list(RunPaths(tmp_path / "run").checkpoints.glob(".tmp-*"))
    resumes_to_the_same_end(config, tmp_path / "run", tmp_path / "unbroken")


def test_f04_a_disk_that_is_full_at_the_last_save_is_tried_once_more(
    configured: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    config = configured(budget={"tokens": 1_500}, saving={"every_steps": 0, "keep": 1})
    ask_for("save:3:enospc")
    train(config, tmp_path / "run", quiet=True)
    assert len(saved(tmp_path / "run")) == 1
    assert events(tmp_path / "run", "finished")


def test_f04_a_disk_that_stays_full_says_what_is_needed_and_keeps_what_is_there(
    configured: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    run = tmp_path / "run"
    config = configured(budget={"tokens": 1_500}, saving={"every_steps": 4, "keep": 3})
    train(config, run, quiet=True)
    before = saved(run)
    longer = {"budget": {"tokens": 2_000}, "saving": {"every_steps": 0}}
    ask_for("save:2-:enospc")
    message = (
        r"no space left on device; a checkpoint needs \d+ bytes, \d+ are free; free some space"
    )
    with pytest.raises(StorageError, match=message):
        resume(run, settings=longer, quiet=True)
    ask_for("")
    assert saved(run) == before
    assert not list(RunPaths(run).checkpoints.glob(".t*"))
    resume(run, quiet=True)
    assert len(saved(run)) == 3


SMALL_DISK = """
mount -t tmpfs -o "$1" none disk || exit
$2 -m lengthen train config.toml --out disk/run --quiet; echo $?
$2 -m lengthen verify disk/run > /dev/null; echo $?
mount -o "remount,$3" disk
$2 -m lengthen resume disk/run --quiet > /dev/null; echo $?
mkdir run; cp disk/run/metrics.jsonl run
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="small disks are mounted with unshare")
@pytest.mark.parametrize(
    ("small", "large", "reason"),
    [
        pytest.param(
            *("size=800k", "size=32m", "checkpoints: a checkpoint needs"),  # known beforehand
            marks=pytest.mark.slow,
        ),
        ("nr_inodes=30", "nr_inodes=999", "checkpoints: no space left on device; a checkpoint"),
    ],
    ids=["no bytes", "no names"],
)
def test_f03_a_real_disk_that_is_full_keeps_what_it_has_and_the_run_resumes_with_more_room(
    configured: Configure, tmp_path: Path, small: str, large: str, reason: str
) -> None:
    config = configured(budget={"tokens": 4_000}, saving={"every_steps": 2, "keep": 99})
    train(config, tmp_path / "unbroken", quiet=True)
    (tmp_path / "config.toml").write_text(config.to_toml())
    (tmp_path / "disk").mkdir()
    # A user namespace may mount what an ordinary user may not.
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh"]
    done = subprocess.run(
        [*command, small, sys.executable, large],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr}")
    assert done.stdout.split() == ["8", "0", "0"], done.stderr
    assert reason in done.stderr
    assert lines_of(tmp_path / "run", "step") == lines_of(tmp_path / "unbroken", "step")
    assert events(tmp_path / "run", "resumed")


def test_a_resumed_run_has_nothing_of_a_checkpoint_in_memory_that_it_deletes(
    configured: Configure, tmp_path: Path
) -> None:
    """A network disk keeps a file under a hidden name as long as somebody has it mapped."""
    run = tmp_path / "run"
    train(configured(budget={"tokens": 1_500}, saving={"every_steps": 0}), run, quiet=True)
    mapped: list[str] = []
    removed: list[Path] = []

    def before(_number: int, name: str, path: Path) -> None:
        if name == "remove" and path.name.startswith(".trash-"):
            removed.append(path)
            lines = Path("/proc/self/maps").read_text().splitlines()
            mapped.extend(line for line in lines if path.name in line)

    longer = {"budget": {"tokens": 2_000}, "saving": {"keep": 1}}
    resume(run, settings=longer, disk=Disk(before=before), quiet=True)
    assert removed
    assert not mapped


@pytest.mark.parametrize("line", [2, 9])
def test_f05_a_log_that_cannot_grow_ends_the_run_with_its_last_step_saved(
    configured: Configure, tmp_path: Path, ask_for: AskFor, line: int
) -> None:
    config = configured(budget={"tokens": 1_500}, saving={"every_steps": 0})
    train(config, tmp_path / "unbroken", quiet=True)
    ask_for(f"log:{line + 1}-:enospc")
    with pytest.raises(StorageError, match=r"metrics\.jsonl: no space left on device"):
        train(config, tmp_path / "run", quiet=True)
    ask_for("")
    assert RunPaths(tmp_path / "run").metrics.read_bytes()[-1:] in (b"\n", b"")
    # The step is in the checkpoint; its line alone is lost.
    lost = checkpoint.load_newest(RunPaths(tmp_path / "run").checkpoints)[0].step
    resume(tmp_path / "run", quiet=True)
    unbroken = lines_of(tmp_path / "unbroken", "step")
    left = [step for step in unbroken if step["step"] != lost]
    assert lines_of(tmp_path / "run", "step") == left


def test_f10_nothing_is_trained_from_scratch_where_every_checkpoint_is_damaged(
    configured: Configure, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = configured(budget={"tokens": 1_500})
    train(config, run, quiet=True)
    for path in list_checkpoints(RunPaths(run).checkpoints):
        (path / "state.json").unlink()
    before = RunPaths(run).metrics.read_bytes()
    with pytest.raises(CheckpointError, match="no usable checkpoint in .*run: "):
        train(config, run, resume="auto", quiet=True)
    assert RunPaths(run).metrics.read_bytes() == before


def test_f12_a_checkpoint_of_another_architecture_names_the_setting_or_the_shape_that_differs(
    configured: Configure, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = configured(budget={"tokens": 800})
    train(config, run, quiet=True)
    there = RunPaths(run).config
    there.write_text(there.read_text().replace("layers = 1", "layers = 2"))
    with pytest.raises(SettingError, match=r"^model\.layers: cannot change in the") as caught:
        resume(run, quiet=True)
    assert caught.value.exit_code == 2
    deeper = trainer_of(with_overrides(config, {"model": {"layers": 2}}))
    start, _ = checkpoint.load_newest(RunPaths(run).checkpoints)
    with pytest.raises(SettingError, match=r"has blocks\.1\.\S+ of shape None, the model \("):
        deeper.restore(start)


def as_nobody(config: Config, run: Path) -> int:
    """Train as another where we are root, who may write everywhere."""

    def work() -> None:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        train(config, run, quiet=True)

    return in_a_child(work)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can come to; those of tests are their owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_f15_a_directory_that_may_not_be_written_is_said_before_any_work(
    configured: Configure, public: Path, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store, public / "store")
    config = with_overrides(
        configured(budget={"tokens": 800}), {"data": {"path": str(public / "store")}}
    )
    train(config, public / "ours", quiet=True)  # it loads modules that another may not read
    out = public / "out"
    out.mkdir()
    out.chmod(0o555)
    assert as_nobody(config, out / "run") == StorageError.exit_code
    message = "permission denied; check the disk and its permissions and run the command again"
    assert message in capfd.readouterr().err
    assert list(out.iterdir()) == []
    out.chmod(0o777)
    assert as_nobody(config, out / "run") == 0


def test_f15_a_directory_that_vanishes_is_not_made_anew_and_ends_the_run_at_the_second_save(
    configured: Configure, tmp_path: Path
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def before(_number: int, name: str, path: Path) -> None:
        if name == "write" and path.name == "metrics.jsonl" and "step-00000004" in saved(run):
            run.rename(elsewhere)

    config = configured(saving={"every_steps": 4})
    with pytest.raises(StorageError, match="run: it has vanished; put it back"):
        train(config, run, disk=Disk(before), quiet=True)
    assert not run.exists()
    assert events(elsewhere, "save_failed") == [8]
    elsewhere.rename(run)
    resume(run, quiet=True)
    assert events(run, "finished")


@pytest.mark.parametrize("first", [1, 6])
def test_f16_a_run_continues_though_its_disk_was_away_for_a_moment(
    configured: Configure,
    tmp_path: Path,
    ask_for: AskFor,
    monkeypatch: pytest.MonkeyPatch,
    first: int,
) -> None:
    monkeypatch.setattr("lengthen.util.disk.WAITS", (0.01, 0.01, 0.01))
    config = configured(budget={"tokens": 1_500}, saving={"every_steps": 3})
    train(config, tmp_path / "unbroken", quiet=True)
    shutil.copytree(tmp_path / "unbroken", tmp_path / "run")
    ask_for(f"load:{first}-{first + 3}:eio")
    resume(tmp_path / "run", quiet=True)
    older = int(saved(tmp_path / "unbroken")[1].removeprefix("step-"))
    assert events(tmp_path / "run", "resumed") == [older]
    assert lines_of(tmp_path / "run", "step") == lines_of(tmp_path / "unbroken", "step")


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock on the wall that jumps by years, and a time zone at the edge of the world."""
    chance = random.Random(0)
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, lambda: chance.randrange(-(10**9), 10**10))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("jumping")
def test_f28_no_clock_that_jumps_changes_a_run_or_its_seconds(
    configured: Configure, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    began = time.monotonic()
    train(configured(budget={"tokens": 1_000}, saving={"keep": 2}), run, quiet=True)
    newest, older = list_checkpoints(RunPaths(run).checkpoints)
    os.utime(newest, (0, 0))  # 1970
    os.utime(older, (4_102_444_800, 4_102_444_800))  # 2100
    resume(run, settings={"budget": {"tokens": 2_000}}, quiet=True)
    steps = read_metrics(RunPaths(run).metrics).steps
    assert events(run, "resumed") == [int(newest.name.removeprefix("step-"))]
    assert [step.step for step in steps] == list(range(1, len(steps) + 1))
    seconds = [step.seconds or 0.0 for step in steps]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    assert seconds[-1] < time.monotonic() - began
    assert saved(run) == [name_of(len(steps)), name_of(len(steps) - 1)]


def files_with(pattern: str) -> set[str]:
    sources = Path(lengthen.__file__).parent.rglob("*.py")
    return {path.name for path in sources if re.search(pattern, path.read_text(encoding="utf-8"))}


def test_f28_only_the_live_view_and_the_record_of_a_start_ask_what_time_it_is() -> None:
    asking = files_with(r"\btime\.time(_ns)?\b|\bdatetime\.now\b")
    assert asking == {"watch.py", "environment.py"}


def test_f29_a_run_has_no_worker_processes_and_forks_none(
    configured: Configure, tmp_path: Path
) -> None:
    children: set[str] = set()

    def before(_number: int, _name: str, _path: Path) -> None:
        children.update(task.read_text() for task in Path("/proc/self/task").glob("*/children"))

    def work() -> None:
        train(
            configured(budget={"tokens": 1_500}, saving={"every_steps": 2, "asynchronous": True}),
            tmp_path / "run",
            disk=Disk(before),
            quiet=True,
        )
        assert children == {""}
        assert threading.active_count() == 1

    assert in_a_child(work) == 0
    assert files_with(r"os\.fork|multiprocessing|ProcessPool") == set()
    # The plugs for other trainers, who have the say about workers.
    assert files_with("DataLoader") <= {"transformers.py", "lightning.py", "arguments.py"}


def test_what_a_resume_was_asked_for_is_told_though_it_died_before_its_first_save(
    configured: Configure, tmp_path: Path, ask_for: AskFor
) -> None:
    config = configured(budget={"tokens": 3_000}, saving={"every_steps": 4, "keep": 9})
    run = tmp_path / "run"
    ask_for("step:6:kill")
    assert in_a_child(partial(train, config, run, quiet=True)) == -signal.SIGKILL
    asked = {"optimizer": {"learning_rate": 5e-3}, "run": {"on_nonfinite": "skip"}}
    ask_for("step:2:kill")
    for overrides in (asked, {"optimizer": {"clip": 0.5}}):
        work = partial(resume, run, settings=overrides, quiet=True)
        assert in_a_child(work) == -signal.SIGKILL
    ask_for("")
    resume(run, quiet=True)
    rates = {record["step"]: record["lr"] for record in lines_of(run, "step")}
    assert max(rate for step, rate in rates.items() if step > 4) == pytest.approx(5e-3)
    resumed = [one for one in lines_of(run, "event") if one["event"] == "resumed"]
    changed = {"learning_rate": 5e-3, "min_learning_rate": 5e-4, "clip": 0.5}
    assert [(one["step"], one["overrides"]) for one in resumed] == [
        (4, {"optimizer": changed, "run": {"on_nonfinite": "skip"}})
    ]
    resume(run, settings={"budget": {"tokens": 4_000}}, quiet=True)
    resumed = [one for one in lines_of(run, "event") if one["event"] == "resumed"]
    assert resumed[1]["overrides"] == {"budget": {"tokens": 4_000}}


def test_a_setting_that_a_resume_names_and_that_was_so_before_is_no_change(
    configured: Configure, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = configured(budget={"tokens": 2_000}, saving={"every_steps": 4, "keep": 9})
    train(config, run, quiet=True)
    clip = config.optimizer.clip
    asked = {"optimizer": {"clip": clip}, "run": {"on_nonfinite": "skip"}}
    resume(run, checkpoint="step-00000004", settings=asked, quiet=True)
    (resumed,) = [one for one in lines_of(run, "event") if one["event"] == "resumed"]
    assert resumed["overrides"] == {"run": {"on_nonfinite": "skip"}}


@pytest.mark.parametrize(
    ("setting", "before", "after"),
    [
        ("optimizer.betas", "betas", "betas = [0.9, 0.5]"),
        ("optimizer.beta2_half_life", "warmup_steps", "warmup_steps = 4\nbeta2_half_life = 900"),
        ("model.z_loss", "z_loss", "z_loss = 0.5"),
    ],
)
def test_what_a_checkpoint_was_built_on_cannot_be_edited_in_its_file_either(
    configured: Configure, tmp_path: Path, setting: str, before: str, after: str
) -> None:
    run = tmp_path / "run"
    train(configured(budget={"tokens": 2_000}, optimizer={"warmup_steps": 4}), run, quiet=True)
    file, log = RunPaths(run).config, RunPaths(run).metrics.read_bytes()
    text = re.sub(rf"(?m)^{before} = (\[[^]]*\]|.*)", after, file.read_text())
    file.write_text(text)
    with pytest.raises(SettingError, match=f"^{setting}: cannot change in the middle of a run"):
        resume(run, settings={"budget.tokens": 3_000}, quiet=True)
    assert (file.read_text(), RunPaths(run).metrics.read_bytes()) == (text, log)


def test_a_schedule_that_a_resume_changes_gives_its_own_rates_from_there_on(
    configured: Configure, tmp_path: Path
) -> None:
    run, longer = tmp_path / "run", {"budget": {"tokens": 12_000}}
    config = configured(budget={"tokens": 9_000}, saving={"every_steps": 4, "keep": 9})
    train(config, run, quiet=True)
    wsd = {"schedule": "wsd", "wsd_decay_tokens": 3_000, "decay_tokens": 12_000}
    resume(run, checkpoint=name_of(16), settings={**longer, "optimizer": wsd}, quiet=True)
    before, after = (
        [plan.learning_rate for _, plan in steps(with_overrides(config, changes).schedule())]
        for changes in ({}, {**longer, "optimizer": wsd})
    )
    assert [line["lr"] for line in lines_of(run, "step")] == before[:16] + after[16:]
    assert len(after) > 16
    with pytest.raises(SettingError, match=r"wsd_decay_tokens: needs optimizer.schedule = \"wsd\""):
        resume(run, settings={"optimizer": {"schedule": "linear"}}, quiet=True)


def test_a_decay_longer_than_a_budget_in_epochs_is_refused_in_a_line(
    configured: Configure, tmp_path: Path
) -> None:
    wsd = {"schedule": "wsd", "wsd_decay_tokens": 50_000}
    config = configured(optimizer=wsd, budget={"tokens": None, "epochs": 0.5})
    decay = r"^optimizer.wsd_decay_tokens: must not exceed optimizer.decay_tokens, .*\(24128\)"
    with pytest.raises(SettingError, match=decay):
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_waits_for_no_import_that_it_does_not_use(
    configured: Configure, tmp_path: Path
) -> None:
    """Of torch the compiler and sharding are a second each."""
    (tmp_path / "run.toml").write_text(configured().to_toml())
    unused = "torch._dynamo", "torch.distributed.fsdp", "sympy", "scipy", "matplotlib", "plotly"
    code = (
        "import sys, lengthen; lengthen.train(sys.argv[1], sys.argv[2], quiet=True);"
        f"print([name for name in {unused} if name in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run.toml"), str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_resume_agrees_with_its_store_as_a_new_run_does(
    configured: Configure, tmp_path: Path, text: str
) -> None:
    """A pacing that observes no loss would never grow; a share alone would change with a budget."""
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    prepare([str(tmp_path / "text.txt")], tmp_path / "all", tokenizer="bytes", valid=0, quiet=True)
    data, run = {"path": str(tmp_path / "all")}, tmp_path / "run"
    epochs = {"tokens": None, "epochs": 0.1}
    train(configured(data=data, budget=epochs, evaluation={"every_steps": 0}), run, quiet=True)
    before = (run / "config.toml").read_bytes()
    for change in ({"pacing.kind": "adaptive"}, {"evaluation.every_steps": 2}):
        with pytest.raises(DataError, match="the valid part has 0 tokens, needs at least 65"):
            resume(run, settings=change, quiet=True)
    assert (run / "config.toml").read_bytes() == before
    resume(run, settings={"pacing.duration": "80%", "budget.epochs": 0.2}, quiet=True)
    shared = load(run / "config.toml", {"pacing.duration": "80%"})[0]
    assert load_run(run / "config.toml").pacing == with_store(shared, open_store(shared)).pacing
    assert "%" not in (run / "config.toml").read_text()


@pytest.mark.parametrize("pacing", [Constant(end=64), Linear(start=16, end=64, duration=30)])
def test_a_pacing_as_a_value_goes_on_as_its_table_does(
    configured: Configure, tmp_path: Path, pacing: Constant | Linear
) -> None:
    train(configured(budget={"tokens": 2_000}), tmp_path / "run", quiet=True)
    for name, given in (("value", pacing), ("table", settings_of(pacing))):
        settings = {"pacing": given, "budget.tokens": 3_000}
        branch(tmp_path / "run", tmp_path / f"branched by {name}", settings=settings, quiet=True)
        shutil.copytree(tmp_path / "run", tmp_path / name)
        resume(tmp_path / name, settings=settings, quiet=True)
    assert lines_of(tmp_path / "value", "step") == lines_of(tmp_path / "table", "step")
    told = [
        [event for event in read_metrics(tmp_path / name).events if event.name == "resumed"]
        for name in ("value", "table")
    ]
    assert told[0] == told[1]


def test_a_length_that_only_the_resumed_run_comes_to_is_refused_before_any_step(
    configured: Configure, tmp_path: Path
) -> None:
    """After 100 steps of one token it comes to the step of a length of 24; a new run would not."""
    stages = {"kind": "staged", "values": [1, 64], "boundaries": [200]}
    tables = configured(model={"positions_start": "spread"}, pacing={"kind": "doubling"}).tables()
    train(build({**tables, "pacing": stages, "budget": {"tokens": 800}}), tmp_path, quiet=True)
    before = (tmp_path / "config.toml").read_bytes()
    uneven = {"pacing.values": [16, 24, 64], "pacing.boundaries": [110, 400]}
    with pytest.raises(SettingError, match=r"model.length \(64\) where .*spread.*, got 24"):
        resume(tmp_path, settings={**uneven, "budget.tokens": 4_000}, quiet=True)
    assert (tmp_path / "config.toml").read_bytes() == before
    assert read_metrics(tmp_path).steps[-1].step == 100

"""Watching a run: what is new is read once, what was cut is read anew, and nothing steers the
terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthen.data.open_store import open_store
from lengthen.reporting import watch as watching
from lengthen.reporting.watch import (
    RECENT,
    Follower,
    LogSummary,
    watch,
)
from lengthen.run.directory import open_run, owned
from lengthen.training.start import resume, train
from lengthen.util.errors import SettingError, printable
from tests.conftest import Configure

Said = pytest.CaptureFixture[str]


def line(step: int, **facts: Any) -> bytes:
    record = {
        "kind": "step",
        "step": step,
        "tokens": 64 * step,
        "length": 8,
        "rows": 8,
        "loss": 3.0,
        "loss_ratio": 1.0,
        "lr": 0.01,
        "seconds": 0.5 * step,
    }
    return json.dumps({**record, **facts}).encode() + b"\n"


def event(event: str, step: int = 1, **facts: Any) -> bytes:
    return json.dumps({"kind": "event", "event": event, "step": step, **facts}).encode() + b"\n"


@pytest.fixture
def run(configured: Configure, tmp_path: Path) -> Path:
    """A run's directory without a log yet."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(configured().to_toml())
    return folder


def once(run: Path, capsys: Said) -> str:
    assert watch(run, once=True) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    return said


def test_a_run_that_has_not_begun_is_at_step_0(run: Path, capsys: Said) -> None:
    assert once(run, capsys) == "run  running  step 0\n"


def test_the_line_says_where_the_run_stands(run: Path, capsys: Said) -> None:
    lines = [line(n, length=8 * n, loss=4.0 / n, loss_ratio=1.3 if n == 2 else 0.9) for n in (1, 2)]
    lines += [
        b'{"kind":"probe","step":2,"loss":4.5,"loss_ratio":0.97}\n',
        b'{"kind":"eval","step":1,"loss":3.25}\n',
        b'{"kind":"eval","step":2,"loss":3.5}\n',
        line(3, loss=None, loss_ratio=None, finite=False),
        event("saved", 3, name="step-00000003"),
    ]
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    assert once(run, capsys) == (
        "run  running  step 3  tokens 192 of 10,000 (1%), 0:01:16 left  length 8  rows 8  "
        "loss not finite (ratio -)  probe 4.500 (ratio 0.970)  valid 3.500 (best 3.250) at step 2  "
        "rate 1.00e-02  tokens/s 128  unstable 2  saved step 3\n"
    )


def test_what_no_directory_of_a_run_is_is_refused_in_one_line(tmp_path: Path, run: Path) -> None:
    with pytest.raises(SettingError, match="RUN: must be a run's directory, .* got '.*nowhere'"):
        watch(tmp_path / "nowhere")
    with pytest.raises(SettingError, match="--every: must be above 0, in seconds, got 0"):
        watch(run, every=0)
    (run / "metrics.jsonl").write_bytes(line(1))
    (run / "config.toml").unlink()  # a log alone is for `report`
    for root in (run, tmp_path):
        with pytest.raises(SettingError, match="RUN: must be a run's directory, which has a conf"):
            watch(root, once=True)


def test_a_budget_in_epochs_is_that_of_its_store(
    configured: Configure, run: Path, capsys: Said
) -> None:
    config = configured(budget={"epochs": 1, "tokens": None})
    (run / "config.toml").write_text(config.to_toml())
    (run / "metrics.jsonl").write_bytes(line(1))
    sequences = (len(open_store(config).train) - 1) // 64
    assert f"tokens 64 of {64 * sequences:,} (0%)  " in once(run, capsys)
    lost = config.to_toml().replace(config.data.path or "", "lost")
    (run / "config.toml").write_text(lost)
    assert "tokens 64  length" in once(run, capsys)


@given(cuts=st.lists(st.integers(0, 5000), max_size=12))
def test_f54_however_the_log_grows_each_line_counts_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    whole = b"".join([line(n, loss=5.0 / n) for n in range(1, 30)] + [event("saved", 29)])
    follower = Follower(path)
    for size in [*sorted(cuts), len(whole)]:
        path.write_bytes(whole[:size])
        follower.catch_up()
        assert follower.summary.lines == whole[:size].count(b"\n")
    expected = LogSummary()
    for text in whole.splitlines(keepends=True):
        expected.add(text)
    assert follower.summary == expected


def test_only_new_bytes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, taken = tmp_path / "m", []
    monkeypatch.setattr(LogSummary, "add", lambda _, text: taken.append(text))
    follower = Follower(path)
    for step in range(1, 5):
        with path.open("ab") as file:
            file.write(line(step))
        follower.catch_up()
    assert taken == [line(step) for step in range(1, 5)]


@pytest.mark.parametrize("more", [0, 1, 50], ids=["shorter", "as long", "longer"])
def test_a_log_that_a_resume_has_cut_is_read_anew(tmp_path: Path, more: int) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"".join(line(n, loss=9.0) for n in range(1, 9)))
    follower = Follower(path)
    follower.catch_up()
    kept = [line(n, loss=9.0) for n in range(1, 8)]
    path.write_bytes(b"".join(kept + [line(8 + n, loss=8.0) for n in range(more)]))
    follower.catch_up()
    assert follower.summary.lines == 7 + more
    assert follower.summary.step is not None
    assert follower.summary.step.loss == (8.0 if more else 9.0)
    assert len(follower.summary.recent) == 7 + more


def test_a_run_that_is_started_anew_is_forgotten(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "m")
    follower.path.write_bytes(line(1))
    follower.catch_up()
    follower.path.unlink()
    follower.catch_up()
    assert follower.summary == LogSummary()


GARBAGE = [
    b"\x00" * 50,
    b"not json",
    b"[1]",
    b"[" * 5000,
    b'{"no":"kind"}',
    b'{"kind":["step"]}',
    b'{"kind":"step","step":true,"tokens":1,"length":8,"rows":8}',
    b'{"kind":"step","step":1,"tokens":"64","length":8,"rows":8}',
    b'{"kind":"step","step":1,"tokens":' + b"9" * 400 + b',"length":8,"rows":8}',
    b'{"kind":"eval","step":-1}',
    b'{"kind":"event"}',
    b'{"kind":"step","step":2,"tokens":1,"length":8,"rows":8,"loss":"3"}',
]


def test_lines_that_are_not_ours_are_counted(run: Path, capsys: Said) -> None:
    (run / "metrics.jsonl").write_bytes(b"\n".join([line(1)[:-1], *GARBAGE, line(3)]) + b'{"ki')
    said = once(run, capsys)
    assert f"unreadable lines {len(GARBAGE)}" in said
    assert "step 3  " in said


def test_what_is_kept_does_not_grow_with_the_run() -> None:
    summary = LogSummary()
    for step in range(1, 2_001):
        summary.add(line(step))
        summary.add(event("skipped", step))
    assert len(summary.recent) == RECENT
    assert len(summary.events) == 5


NASTY = "\x1b[2J\x07[red]x[/red]\r\x9b0m\u202e\ud800"


def view_of(run: Path) -> watching.View:
    return next(watching._views(open_run(run)))


def screen(run: Path, width: int = 120) -> str:
    return watching.drawn([view_of(run)], width) + "\n"


def test_f49_names_and_events_are_text_and_steer_nothing(run: Path, capsys: Said) -> None:
    nasty = run.rename(run.parent / NASTY.replace("/", "").replace("\ud800", ""))
    (nasty / "metrics.jsonl").write_bytes(line(1) + event(NASTY, text=NASTY, facts={NASTY: NASTY}))
    with owned(nasty):
        holder = {"pid": 1, "host": NASTY, "start": NASTY}
        (nasty / ".lock").write_text(json.dumps(holder))
        shown = screen(nasty) + once(nasty, capsys)
    assert all(sign.isprintable() or sign == "\n" for sign in shown)
    assert "[red]x[/red]" in shown
    assert "\\x1b[2J\\x07" in shown
    assert "since \\x1b[2J" in shown
    assert printable("schön [b] 文") == "schön [b] 文"


def test_the_screen_shows_facts_and_events_and_fits_a_narrow_terminal(run: Path) -> None:
    lines = [line(n, length=8 * min(n, 8), loss=9.0 - n / 10) for n in range(1, 50)]
    lines += [event("resumed", 20, discarded_lines=3, overrides={}), event("saved", 49)]
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    shown = screen(run)
    assert re.search(r"\nlength +64\n", shown)
    assert re.search(r"\nevent +step 20 resumed discarded_lines 3\n", shown)
    for width in (40, 60, 80, 120):
        shown = screen(run, width)
        assert all(len(text) <= width for text in shown.splitlines())
        assert "event step 20 resumed discarded_lines 3" in " ".join(shown.split())


def test_the_kernel_says_whether_a_run_is_stopped(run: Path, capsys: Said) -> None:
    (run / "metrics.jsonl").write_bytes(line(1))
    with owned(run):
        if not watching.LOCKS.exists():
            pytest.skip("this system does not list its locks")
        assert f"run  running (pid {os.getpid()} on " in once(run, capsys)
        long_ago = time.time() - 75
        os.utime(run / "metrics.jsonl", (long_ago, long_ago))
        assert "run  no line for 75 seconds (pid " in once(run, capsys)
    assert "run  stopped  step 1" in once(run, capsys)


@pytest.fixture
def comparison(run: Path, tmp_path: Path) -> Path:
    """A comparison's directory with a finished run and one that was stopped."""
    root = tmp_path / "question"
    for name in ("full", "slw"):
        (root / "runs" / name / "seed-0").mkdir(parents=True)
        (root / "runs" / name / "seed-0/config.toml").write_bytes(
            (run / "config.toml").read_bytes()
        )
    (root / "runs/full/seed-0/metrics.jsonl").write_bytes(line(9) + event("finished", 9))
    (root / "runs/slw/seed-0/metrics.jsonl").write_bytes(line(4))
    with owned(root / "runs/slw/seed-0"):
        pass
    return root


def test_a_comparison_is_a_line_for_each_run(comparison: Path, capsys: Said) -> None:
    assert watch(comparison, once=True) == 0
    full, slw = capsys.readouterr().out.splitlines()
    assert full.startswith("runs/full/seed-0  finished  step 9  ")
    assert slw.startswith("runs/slw/seed-0  stopped  step 4  ")


def test_a_comparison_is_followed_as_long_as_somebody_carries_it_out(comparison: Path) -> None:
    looks = watching._looks(comparison, 0.001)
    with owned(comparison):
        assert [view.state for view in next(looks)] == ["finished", "stopped"]
        later = comparison / "runs/rows/seed-0"
        later.mkdir(parents=True)
        (later / "config.toml").write_bytes(
            (comparison / "runs/slw/seed-0/config.toml").read_bytes()
        )
        (later / "metrics.jsonl").write_bytes(line(1) + event("finished", 1))
        assert [view.name for view in next(looks)][-1] == "runs/rows/seed-0"
    assert len(list(looks)) <= 1


def test_a_comparison_is_a_table_on_a_screen(comparison: Path) -> None:
    views = next(watching._looks(comparison, 1.0))
    for width in (40, 80, 120):
        shown = watching.drawn(views, width)
        assert all(len(text) <= width for text in shown.splitlines())
        assert {"finished", "stopped"} <= set(shown.split())


@pytest.mark.parametrize(("width", "height"), [(100, 24), (40, 24), (200, 60)])
def test_of_more_runs_than_the_screen_has_room_for_the_finished_ones_are_left_out_first(
    comparison: Path, width: int, height: int
) -> None:
    full, slw = (view_of(comparison / "runs" / name / "seed-0") for name in ("full", "slw"))
    views = [*(replace(full, name=f"full/seed-{n}") for n in range(30)), replace(slw, name="slw")]
    shown = watching.fitting(views, width, height)
    assert len(shown.splitlines()) <= height
    assert len(re.findall("slw", shown)) == len(re.findall("full/seed-0", shown)) > 0
    more = re.search(r"\n(\d+) more runs$", shown)
    assert (more is None) == (height == 60)
    if more:
        assert int(more[1]) + len(set(re.findall(r"full/seed-\d+", shown))) == 30


def test_looking_takes_no_lock_from_anybody(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the lock was tried")

    with owned(run):
        pass
    monkeypatch.setattr("fcntl.flock", refuse)
    assert view_of(run).running is False


def test_a_lock_of_another_machine_or_none_tells_nothing(run: Path) -> None:
    assert view_of(run).running is None
    for text in ("", "[]", '{"pid": 1}', '{"pid": 1, "host": "elsewhere", "start": "today"}'):
        (run / ".lock").write_text(text)
        assert view_of(run).running is None
    assert view_of(run).owner == "pid 1 on elsewhere since today"
    with owned(run):
        assert view_of(run).running is True
        (run / ".lease").touch()  # on a disk without locks the kernel's list says nothing
        assert view_of(run).running is None


@pytest.fixture(scope="module")
def finished(configured: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    tables = {"budget": {"tokens": 3000}, "saving": {"every_steps": 6, "keep": 9}}
    train(configured(**tables), out, quiet=True)
    return out


def test_a_finished_run_ends_the_watch(finished: Path, capsys: Said) -> None:
    assert watch(finished) == 0
    said = capsys.readouterr().out
    assert said.startswith("finished  finished  step ")
    assert said.count("\n") == 1
    assert "left" not in said
    assert " of 3,000, the rest is less than one row  " in said


def test_another_loop_that_ends_early_has_more_left_than_a_row(run: Path, capsys: Said) -> None:
    for tokens, text in ((9_992, " of 10,000  "), (9_993, " of 10,000, the rest is less than one")):
        (run / "metrics.jsonl").write_bytes(line(3, tokens=tokens) + event("finished", 3))
        assert text in once(run, capsys)


def test_a_run_is_finished_when_its_last_line_says_so(finished: Path) -> None:
    summary, states = LogSummary(), []
    for text in (finished / "metrics.jsonl").read_bytes().splitlines(keepends=True):
        summary.add(text)
        states.append(summary.finished)
    assert states == [False] * (len(states) - 1) + [True]


def test_a_longer_budget_makes_a_finished_run_go_on(configured: Configure, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(configured(budget={"tokens": 2000}), out, quiet=True)
    follower = Follower(out / "metrics.jsonl")
    follower.catch_up()
    assert follower.summary.finished
    for text, finished in ((event("resumed"), False), (event("finished"), True), (line(99), False)):
        follower.summary.add(text)
        assert follower.summary.finished is finished
    resume(out, settings={"budget": {"tokens": 3000}}, quiet=True)
    assert view_of(out).budget == 3000
    follower.catch_up()
    assert follower.summary.finished
    assert follower.summary.step is not None
    assert (follower.summary.step.tokens or 0) > 2000


def test_a_budget_changed_by_a_resume_is_seen_and_half_a_file_is_not(run: Path) -> None:
    views = watching._views(open_run(run))
    assert next(views).budget == 10_000
    config = run / "config.toml"
    whole = config.read_text().replace("tokens = 10000", "tokens = 30000")
    for text, budget in ((whole[:99], 10_000), (whole, 30_000)):
        config.write_text(text)
        assert next(views).budget == budget
    config.unlink()
    assert next(views).budget == 30_000


def test_the_settings_of_a_finished_run_are_read_again_only_once_it_is_resumed(run: Path) -> None:
    config, log = run / "config.toml", run / "metrics.jsonl"
    log.write_bytes(line(9) + event("finished", 9))
    views = watching._views(open_run(run))
    assert next(views).budget == 10_000
    config.write_text(config.read_text().replace("tokens = 10000", "tokens = 30000"))
    assert next(views).budget == 10_000
    log.write_bytes(log.read_bytes() + event("resumed", 9))
    assert next(views).budget == 30_000


CODE = """
import sys, time
from pathlib import Path
from lengthen.reporting.watch import watch
print("here", flush=True)
while not Path(sys.argv[1], "metrics.jsonl").exists():
    time.sleep(0.01)
code = watch(Path(sys.argv[1]), every=0.05)
assert "torch" not in sys.modules
sys.exit(code)
"""


def start(*words: str, **more: Any) -> "subprocess.Popen[str]":
    bare = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return subprocess.Popen([sys.executable, *words], text=True, env=bare, **more)


def test_a_run_is_followed_by_another_process_to_its_end(
    configured: Configure, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with start("-c", CODE, str(out), stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "here\n"
        tables = {"budget": {"tokens": 60_000}, "saving": {"every_steps": 50, "keep": 2}}
        train(configured(**tables), out, quiet=True)
        said = watcher.communicate(timeout=60)[0].splitlines()
    assert watcher.returncode == 0
    states = [text.split("  ")[1] for text in said]
    if watching.LOCKS.exists():
        for state in states[:-1]:
            assert state.startswith(f"running (pid {os.getpid()} on ")
    assert states[-1] == "finished"
    steps = [int(text.split("  step ")[1].split()[0]) for text in said]
    assert steps == sorted(steps)
    assert len(set(steps)) > 2


def test_a_terminal_is_redrawn_and_left_in_order_by_an_interrupt(run: Path) -> None:
    (run / "metrics.jsonl").write_bytes(line(1))
    ours, theirs = pty.openpty()
    with start("-c", CODE, str(run), stdout=theirs, stderr=subprocess.DEVNULL) as watcher:
        os.close(theirs)
        shown = b""
        try:
            while b"step 77" not in shown:
                shown += os.read(ours, 4096)
                if b"running" in shown:  # it is there, and now something happens
                    (run / "metrics.jsonl").write_bytes(line(1) + event("note", 77, text="hello"))
            watcher.send_signal(signal.SIGINT)
            with suppress(OSError):  # what Linux gives at the end of a terminal
                while part := os.read(ours, 4096):
                    shown += part
        finally:
            watcher.kill()  # nobody reads its terminal any more, and it would wait for that
    os.close(ours)
    _, drawn, after = re.split(rb"\x1b\[\?1049[hl]", shown)  # a screen of its own, and back
    assert drawn.count(b"\x1b[H") > 1  # from its first line each time, whatever a resize made of it
    assert b"\x1b[?25h" in shown  # the cursor is back
    assert after.count(b"step 77") == 1  # and what was last seen stays


def test_one_look_on_a_terminal_is_as_wide_as_that(run: Path) -> None:
    (run / "metrics.jsonl").write_bytes(line(1) + line(2))
    ours, theirs = pty.openpty()
    code = "import sys, pathlib; from lengthen.reporting.watch import watch; "
    code += "watch(pathlib.Path(sys.argv[1]), once=True)"
    with start("-c", code, str(run), stdout=theirs, stderr=subprocess.DEVNULL) as watcher:
        assert watcher.wait(60) == 0
    shown = os.read(ours, 65536).decode()
    for end in (ours, theirs):
        os.close(end)
    assert len(shown.splitlines()) > 5
    assert all(len(text) <= 80 for text in shown.splitlines())

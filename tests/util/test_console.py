"""Lines on the error stream: whole in a file, broken between words on a terminal."""

import io
import sys

import pytest

from lengthen.util.console import line, note

SAID = "stopped after step 16, which is saved; `lengthen resume runs/first` continues [0] :x:"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def opened(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in {"COLUMNS": "60", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_terminal_gets_a_long_message_in_lines_and_a_file_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = opened(monkeypatch)
    note(SAID)
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 1
    assert all(len(text) <= 60 for text in lines)
    assert " ".join(" ".join(lines).split()) == f"lengthen: {SAID}"
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    note(SAID)
    assert file.getvalue() == f"lengthen: {SAID}\n"


def test_without_an_error_stream_work_goes_on_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # of a daemon, or a program without a console
    note("nobody reads it")
    with line(10, "run") as progress:
        progress.say("nor this")
        progress.update(5, "half")


def test_a_bar_says_what_its_time_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = opened(monkeypatch)
    with line(100, "run", own_thread=False) as bar:
        bar.update(10, "step 1", lambda: 36_835.0)
        bar.say(SAID)
    assert "10:13:55 left" in terminal.getvalue()
    assert SAID.split("; ")[0] in terminal.getvalue()

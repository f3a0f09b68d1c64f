"""Ways out of what a comparison and the demo say."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from lengthen.cli.main import main
from lengthen.experiments import demo as whole
from lengthen.experiments.compare import compare as comparing
from lengthen.experiments.compare.file import Comparison, read_comparison
from lengthen.experiments.demo import demo
from lengthen.run.metrics import read_metrics
from lengthen.util.errors import SettingError, StoppedError
from scripts.publish_runs import pack
from tests.conftest import AskFor
from tests.experiments.conftest import Written
from tests.experiments.test_demo import TINY
from tests.ways_out import takes


@takes("choose another --out, or remove that run", "add --look, or give a directory")
@pytest.mark.usefixtures("in_this_process")
def test_a_directory_that_holds_other_runs_or_a_packed_study(
    trained: tuple[Comparison, Path],
    written: Written,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(comparing, "write", lambda *_, **__: None)  # the page, which takes seconds
    root = tmp_path / "root"
    shutil.copytree(trained[1], root)
    file = written(**{"duration = 8": "duration = 16", "[0, 1, 2]": "[0]"})

    def compared(*words: str) -> tuple[int, str]:
        code = main(["compare", str(file), "--quiet", *words])
        return code, (capsys.readouterr().err.splitlines() or [""])[-1]

    code, said = compared("--out", str(root))
    assert (code, said.endswith("choose another --out, or remove that run")) == (2, True)
    assert compared("--out", str(tmp_path / "other"))[0] == 0
    # One of them is named after the other.
    while found := re.search(r": (\S+) holds a run", compared("--out", str(root))[1]):
        shutil.rmtree(found[1])
    assert compared("--out", str(root), "--amend")[0] == 0  # the file is not that of those runs
    study = str(tmp_path / "study.tar.xz")
    pack(tmp_path / "other", Path(study))
    code, said = compared("--out", study)
    assert (code, said.endswith("add --look, or give a directory")) == (2, True)
    assert compared("--out", study, "--look")[0] == 0
    assert compared("--out", str(tmp_path / "third"))[0] == 0


@takes(
    "give an equal budget.tokens instead, or the lengths that it took in a run as "
    'pacing.kind = "staged"',
    "is a share of budget.tokens, which flops or seconds replace; give steps",
    "`lengthen plan` says how many they are",
)
def test_a_budget_in_flops_for_lengths_that_are_decided_on_the_way(written: Written) -> None:
    linear = 'pacing = { kind = "linear", start = 8, duration = 8 }'
    flops = {
        'baseline = "baseline"': 'baseline = "baseline"\nflops = "1B"',
        "heads = 2": "heads = 2, vocabulary = 257",
    }
    adaptive = 'pacing = { kind = "adaptive", start = 8 }'
    staged = 'pacing = { kind = "staged", values = [8, 64], boundaries = [9] }'
    with pytest.raises(SettingError, match="give an equal budget.tokens instead, or the"):
        read_comparison(written(**{linear: adaptive, **flops}))
    assert read_comparison(written(**{linear: adaptive})).runs
    assert read_comparison(written(**{linear: staged, **flops})).runs
    minutes = {"budget.tokens = 6000": "budget.minutes = 0.1"}
    with pytest.raises(SettingError, match="`lengthen plan` says how many they are"):
        read_comparison(written(**minutes))
    share = linear.replace("duration = 8", 'duration = "30%"')
    with pytest.raises(SettingError, match="which flops or seconds replace; give steps"):
        read_comparison(written(**{linear: share, **flops}))
    assert read_comparison(written(**{linear: linear, **flops})).runs


@takes("--amend goes on, and the verdicts say so")
@pytest.mark.usefixtures("in_this_process")
def test_a_comparison_file_that_was_changed(
    written: Written,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(comparing, "write", lambda *_, **__: None)
    out = str(tmp_path / "out")
    one = written(**{"[0, 1, 2]": "[0]"})
    assert main(["compare", str(one), "--out", out, "--quiet"]) == 0
    more = str(written(**{"[0, 1, 2]": "[0, 1]"}))
    assert main(["compare", more, "--out", out, "--quiet"]) == 2
    assert capsys.readouterr().err == (
        "lengthen: seeds: was [0] when runs were started, got [0, 1]; "
        "--amend goes on, and the verdicts say so\n"
    )
    assert main(["compare", more, "--out", out, "--quiet", "--amend"]) == 0
    assert ": seeds: was [0] when runs" in capsys.readouterr().out


@takes(
    "Next:    lengthen sample {}{}",
    " --prompt 'def '",
    "stopped in {}; with --overwrite the same command begins anew",
)
def test_a_demo_that_was_stopped_and_what_follows_one(
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ask_for: AskFor,
) -> None:
    monkeypatch.setattr(whole, "SETTINGS", TINY)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    ask_for("step:30:term")
    with pytest.raises(StoppedError, match="which is saved; the same command continues"):
        demo(tmp_path / "out", text=tmp_path / "text.txt")
    ask_for("")
    demo(tmp_path / "out", text=tmp_path / "text.txt")
    said = capsys.readouterr().out
    assert said.count("3. train   baseline") == 2
    assert "Report:" in said
    words = shlex.split(said.partition("Next:    lengthen sample ")[2].splitlines()[0])
    for prompt in ([], ["--prompt", "def "]):  # of the Python library there is one
        assert main(["sample", *words, *prompt, "--tokens", "2"]) == 0
    ask_for("step:30:term")  # of one that is finished there is nothing to continue
    with pytest.raises(StoppedError, match="; with --overwrite the same command begins anew$"):
        demo(tmp_path / "out", text=tmp_path / "text.txt", overwrite=True)
    ask_for("")
    demo(tmp_path / "out", text=tmp_path / "text.txt", overwrite=True)
    events = read_metrics(tmp_path / "out/baseline").events
    assert "resumed" not in [event.name for event in events]

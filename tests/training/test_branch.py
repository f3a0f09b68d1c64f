"""A run branches from a checkpoint of another: what goes on, what begins anew, what is refused."""

import hashlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lengthen.checkpoint import read as checkpoint
from lengthen.checkpoint.verify import name_of, verify
from lengthen.cli.main import main
from lengthen.config.load import load_run
from lengthen.data.prepare import prepare
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import read_metrics
from lengthen.training import fit
from lengthen.training.branch import branch
from lengthen.training.start import resume, train
from lengthen.util.disk import Disk
from lengthen.util.errors import CheckpointError, DataError, MemoryLimitError, SettingError
from tests.checkpoint.test_kills import killed_in
from tests.conftest import AskFor, Configure, in_a_child
from tests.ranks import commands, finish
from tests.training.test_resume import CASES, lines_of
from tests.ways_out import takes

ROPE = {"positions": "rope"}
LONGER = {"model.length": 128, "model.rope_theta": 50_000, "budget.tokens": 6000}
DOUBLING = {"pacing": {"kind": "doubling", "start": 64, "duration": 4}}
LAWS = ("linear", "adaptive", "cut in place", "clock", "muon", "wsd", "epoch border")


def same_end(one: Path, other: Path) -> bool:
    """Whether two runs end at one step with the same bits of weights and moments."""
    ends = [checkpoint.load_newest(RunPaths(run).checkpoints)[0] for run in (one, other)]
    assert ends[0].step == ends[1].step
    return all(
        torch.equal(tensor, ends[1].tensors[group][name])
        for group in ("model", "optimizer")
        for name, tensor in ends[0].tensors[group].items()
    )


def seal(folder: Path) -> str:
    """A hash of every file of a directory, and of its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(f"{p}".encode() + p.read_bytes() for p in files)).hexdigest()


@pytest.fixture(scope="module")
def parent(configured: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with rotary positions and a checkpoint of every step, only ever read."""
    run = tmp_path_factory.mktemp("parent") / "trunk"
    train(configured(model=ROPE, budget={"tokens": 5000}), run, quiet=True)
    return run


@pytest.mark.parametrize("name", LAWS)
def test_a_branch_without_changes_is_the_run_that_never_branched(
    configured: Configure, tmp_path: Path, name: str
) -> None:
    unbroken, branched = tmp_path / "unbroken", tmp_path / "branched"
    train(configured(**CASES[name]), unbroken, quiet=True)
    before = seal(unbroken)
    branch(unbroken, branched, at="6", quiet=True)
    assert seal(unbroken) == before
    assert same_end(unbroken, branched)
    for kind in ("step", "eval", "probe", "observation"):
        assert lines_of(branched, kind) == lines_of(unbroken, kind)
    assert load_run(branched / "config.toml").run.parent_tokens is None


def test_a_branch_with_a_larger_budget_is_the_longer_run_with_a_constant_rate(
    configured: Configure, tmp_path: Path
) -> None:
    constant = {"learning_rate": 1e-2, "min_learning_rate": 1e-2}
    for name, tokens in (("trunk", 6000), ("whole", 9000)):
        train(
            configured(optimizer=constant, budget={"tokens": tokens}), tmp_path / name, quiet=True
        )
    branch(
        tmp_path / "trunk", tmp_path / "new", at="8", settings={"budget.tokens": 9000}, quiet=True
    )
    assert same_end(tmp_path / "new", tmp_path / "whole")


def test_one_trunk_gives_finished_models_of_several_budgets(
    configured: Configure, tmp_path: Path
) -> None:
    """Each ends as a run of its own does that had the budget and the decay from the start."""
    trunk = tmp_path / "trunk"
    constant = {"learning_rate": 1e-2, "schedule": "constant"}
    train(configured(optimizer=constant, budget={"tokens": 9000}), trunk, quiet=True)
    for at, decay in (("6", 1500), ("12", 3000)):
        done = checkpoint.load_step(trunk / "checkpoints", at).state["counters"]["tokens"]
        wsd = {"schedule": "wsd", "wsd_decay_tokens": decay}
        alone, branched = tmp_path / f"alone {at}", tmp_path / f"branched {at}"
        whole = configured(optimizer=constant | wsd, budget={"tokens": done + decay})
        train(whole, alone, quiet=True)
        settings = {"optimizer": wsd, "budget.tokens": done + decay}
        branch(trunk, branched, at=at, settings=settings, quiet=True)
        assert same_end(alone, branched)
        stem = lines_of(trunk, "step")[: int(at)]
        assert lines_of(branched, "step")[: int(at)] == stem
        assert lines_of(branched, "step")[int(at)]["lr"] == 1e-2
        assert lines_of(branched, "step")[-1]["lr"] < 5e-3


def test_the_fall_of_the_rate_ends_where_the_budget_of_the_branch_does(
    parent: Path, tmp_path: Path
) -> None:
    branch(parent, tmp_path / "new", at="8", settings={"budget.tokens": 3000}, quiet=True)
    assert load_run(tmp_path / "new/config.toml").optimizer.decay_tokens == 3000
    rates = [step.lr for step in read_metrics(tmp_path / "new").steps]
    assert rates[-1] is not None
    assert 1e-3 < rates[-1] < 2e-3


def test_another_length_begins_a_new_ledger_and_counts_the_tokens_of_its_parents(
    parent: Path, tmp_path: Path
) -> None:
    first = branch(parent, tmp_path / "a", settings={**LONGER, **DOUBLING}, quiet=True)
    assert (first.full_length, first.length) == (128, 128)
    config = load_run(tmp_path / "a/config.toml")
    assert (config.pacing.start, config.pacing.end) == (64, 128)
    parents = read_metrics(parent).steps[-1]
    assert config.run.parent_tokens == parents.tokens
    assert config.run.branched_from == f"trunk/{name_of(parents.step)}"
    steps = read_metrics(tmp_path / "a").steps
    assert (steps[0].step, steps[0].tokens, steps[0].length) == (1, 512, 64)
    branch(tmp_path / "a", tmp_path / "b", at="5", settings={"run.seed": 1}, quiet=True)
    again = load_run(tmp_path / "b/config.toml").run.parent_tokens
    assert again == (parents.tokens or 0) + (steps[4].tokens or 0)


def test_a_new_ledger_begins_with_the_weights_and_the_moments_of_the_parent(
    parent: Path, tmp_path: Path
) -> None:
    branch(parent, tmp_path / "new", at="7", settings=LONGER, quiet=True)
    begun = checkpoint.load_step(tmp_path / "new/checkpoints", "0")
    old = checkpoint.load_step(parent / "checkpoints", "7")
    for group in ("model", "optimizer"):
        assert begun.tensors[group].keys() == old.tensors[group].keys()
        for name, tensor in begun.tensors[group].items():
            assert torch.equal(tensor, old.tensors[group][name])
    assert begun.state["ledger"]["takes"] == begun.state["counters"]["tokens"] == 0
    assert verify(tmp_path / "new")


def test_the_second_moment_knows_the_tokens_of_the_parents(
    configured: Configure, tmp_path: Path
) -> None:
    """Steps of equal tokens: with a half-life that is the same beta2, the bits are the same."""
    settings = {"learning_rate": 1e-2, "betas": [0.9, 0.5 ** (512 / 3000)]}
    for name, optimizer in (("beta", {}), ("half-life", {"beta2_half_life": 3000})):
        config = configured(
            pacing={"kind": "constant"},
            optimizer=settings | optimizer,
            budget={"tokens": 512 * 8},
        )
        train(config, tmp_path / name, quiet=True)
        branch(tmp_path / name, tmp_path / f"{name} on", settings={"run.seed": 1}, quiet=True)
    assert same_end(tmp_path / "beta on", tmp_path / "half-life on")


BRANCHES: dict[str, dict[str, Any]] = {
    "a decay": {"budget.tokens": 4000, "optimizer.min_learning_rate": 0},
    "a longer length": LONGER | DOUBLING,
    "a longer length, adaptive": LONGER | {"pacing": {"kind": "adaptive", "start": 32, "every": 1}},
    "another seed": {"run.seed": 3, "model.dropout": 0.1},
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_that_is_killed_and_resumed_comes_to_the_same_end(
    parent: Path, tmp_path: Path, ask_for: AskFor, name: str
) -> None:
    def begin(out: Path) -> Callable[[], object]:
        return lambda: branch(parent, out, at="9", settings=BRANCHES[name], quiet=True)

    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    begin(unbroken)()
    ask_for("step:4:kill")
    assert in_a_child(begin(run)) == -signal.SIGKILL
    ask_for("")
    config = str(run / "config.toml")
    assert main(["train", config, "--out", str(run), "--resume", "auto", "--quiet"]) == 0
    assert same_end(unbroken, run)
    assert lines_of(run, "step") == lines_of(unbroken, "step")


@pytest.mark.parametrize("stride", [13, pytest.param(2, marks=pytest.mark.slow)])
def test_a_kill_at_any_operation_leaves_nothing_or_a_whole_run(
    parent: Path, tmp_path: Path, stride: int
) -> None:
    settings = {"saving": {"every_steps": 0}, "budget.tokens": 2000}
    unbroken, written = tmp_path / "unbroken", list[int]()

    def before(number: int, _name: str, path: Path) -> None:
        if path.name == "metrics.jsonl" or "config.toml" in path.name:
            written.append(number)

    branch(parent, unbroken, at="8", settings=settings, disk=Disk(before), quiet=True)
    for at in range(1, written[-1], stride):
        run = tmp_path / str(at)

        def begin(disk: Disk, run: Path = run) -> None:
            branch(parent, run, at="8", settings=settings, disk=disk, quiet=True)

        seal_before = seal(parent)
        assert killed_in(begin, at)
        assert seal(parent) == seal_before
        if RunPaths(run).config.is_file():
            resume(run, quiet=True)
        else:  # the same command begins again, unasked
            branch(parent, run, at="8", settings=settings, quiet=True)
        assert same_end(unbroken, run)


@pytest.mark.ranks
@pytest.mark.parametrize("how", [[], ["--run.sharded", "true"]], ids=["replicated", "sharded"])
@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("longer", [False, True], ids=["goes on", "longer"])
def test_ranks_branch_as_one_process_does(
    configured: Configure, tmp_path: Path, how: list[str], ranks: int, longer: bool
) -> None:
    config = configured(model=ROPE, run={"precision": "fp64"}, budget={"tokens": 3000})
    train(config, tmp_path / "trunk", quiet=True)
    words = ["branch", str(tmp_path / "trunk"), "--at", "5", "--quiet", "--budget.tokens", "4000"]
    words += ["--model.length", "128"] if longer else []
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    finish(commands(*[[*words, *how, "--out", str(tmp_path / "many")]] * ranks))
    one, many = (
        checkpoint.load_newest(tmp_path / name / "checkpoints")[0] for name in ("one", "many")
    )
    assert one.step == many.step
    for name, tensor in one.tensors["model"].items():
        assert torch.allclose(tensor, many.tensors["model"][name], rtol=0, atol=1e-10)


@pytest.mark.ranks
def test_ranks_that_cannot_branch_all_say_so_and_write_nothing(
    parent: Path, tmp_path: Path
) -> None:
    words = ["branch", str(parent), "--at", "999", "--out", str(tmp_path / "new")]
    ranks = commands(words, words)
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [4, 4]
    assert all("not in" in error for error in errors)
    assert not (tmp_path / "new").exists()


def test_another_store_of_the_same_tokenizer_is_taken_and_of_another_one_refused(
    parent: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "text.txt").write_text(text[: len(text) // 2], encoding="utf-8")
    for name in ("bytes", "train:257"):
        source, out = [str(tmp_path / "text.txt")], tmp_path / name[:5]
        prepare(source, out, tokenizer=name, valid=0.1, quiet=True)
    summary = branch(parent, tmp_path / "new", data=tmp_path / "bytes", quiet=True)
    assert summary.steps == len(read_metrics(tmp_path / "new").steps)
    assert read_metrics(tmp_path / "new").steps[0].tokens == 64  # a ledger of its own
    with pytest.raises(DataError, match="its tokenizer is not that of the run|has a vocabulary"):
        branch(parent, tmp_path / "other", data=tmp_path / "train", quiet=True)
    assert not (tmp_path / "other").exists()


@takes("give more")
def test_a_branch_at_the_end_of_its_budget_is_refused_until_it_has_more(
    parent: Path, tmp_path: Path
) -> None:
    rule = r"budget.tokens: leaves no step after the \d+ tokens of step-\d+, got 5000; give more"
    with pytest.raises(SettingError, match=rule):
        branch(parent, tmp_path / "new", quiet=True)
    assert not (tmp_path / "new").exists()
    branch(parent, tmp_path / "new", settings={"budget.tokens": 6000}, quiet=True)


def test_a_length_that_does_not_fit_into_memory_begins_no_run(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    monkeypatch.setattr(fit, "cpu_memory_limit", lambda: 2**18)
    with pytest.raises(MemoryLimitError):
        branch(parent, new, settings=LONGER, quiet=True)
    assert not [path for path in new.rglob("*") if path.name != ".lock"]
    monkeypatch.undo()
    branch(parent, new, settings=LONGER, quiet=True)


def test_a_new_length_is_not_said_to_differ_by_rounding(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    branch(parent, tmp_path / "new", settings=LONGER)
    said = capsys.readouterr().err
    assert "branched from trunk/step-" in said
    assert "equal to rounding" not in said


def damaged(run: Path) -> str:
    weights = run / "checkpoints" / name_of(8) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return str(run)


REFUSED: dict[str, tuple[int, str, list[str]]] = {
    "a missing step": (4, "checkpoint step-00000999: not in .*; there are: step-", ["--at", "999"]),
    "no step": (4, "checkpoint last: not in .*; there are: step-", ["--at", "last"]),
    "a shorter length": (2, "model.length: must be at least the run's", ["--model.length", "32"]),
    "another width": (2, "model.width: cannot change in a branch", ["--model.width", "32"]),
    "more layers": (2, "model.layers: cannot change in a branch", ["--model.layers", "2"]),
    "other positions": (2, "model.positions: cannot change", ["--model.positions", "learned"]),
    "another vocabulary": (3, "has a vocabulary of", ["--model.vocabulary", "300"]),
    "another optimizer": (2, "optimizer.kind: cannot change", ["--optimizer.kind", "muon"]),
    "another half-life": (2, "cannot change", ["--optimizer.beta2_half_life", "99"]),
    "its own origin": (2, "run.parent_tokens: cannot change", ["--run.parent_tokens", "9"]),
    "a budget that is passed": (2, "budget.tokens: leaves no step", ["--budget.tokens", "900"]),
    "a budget that is passed, a rate by tokens": (
        2,
        "budget.tokens: leaves no step",
        ["--budget.tokens", "900", "--optimizer.rate_by_tokens", "sqrt"],
    ),
    "no such setting": (2, "no such setting", ["--model.lenght", "128"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_branch_is_refused_in_one_line_and_nothing_is_written(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, message, words = REFUSED[name]
    before = seal(parent)
    assert main(["branch", str(parent), "--out", str(tmp_path / "new"), *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(SettingError, match=message):
        raise SettingError("", line)
    assert not (tmp_path / "new").exists()
    assert seal(parent) == before


def test_no_run_a_damaged_checkpoint_and_a_directory_that_is_taken_are_refused(
    parent: Path, tmp_path: Path
) -> None:
    run, new = shutil.copytree(parent, tmp_path / "run"), tmp_path / "new"
    with pytest.raises(SettingError, match="must be a run's directory"):
        branch(tmp_path, new)
    with pytest.raises(CheckpointError, match="step-00000008 damaged: model.safetensors sha256"):
        branch(damaged(run), new, at="8")
    assert not new.exists()
    with pytest.raises(SettingError, match="--out: must be a new or empty directory"):
        branch(parent, run)
    with pytest.raises(SettingError, match="--out: must be a directory outside RUN"):
        branch(run, run, overwrite=True)


@pytest.mark.parametrize("inside", ["new", "checkpoints/new", "../run/new"])
def test_a_directory_inside_the_run_is_refused_and_the_run_stays_as_it_is(
    parent: Path, tmp_path: Path, inside: str
) -> None:
    run = shutil.copytree(parent, tmp_path / "run")
    before = seal(run)
    with pytest.raises(SettingError, match="--out: must be a directory outside RUN, got '.*new'$"):
        branch(run, run / inside)
    assert seal(run) == before


def test_learned_positions_have_no_other_length(configured: Configure, tmp_path: Path) -> None:
    train(configured(budget={"tokens": 1000}), tmp_path / "run", quiet=True)
    with pytest.raises(SettingError, match='above 64 needs model.positions = "rope"'):
        branch(tmp_path / "run", tmp_path / "new", settings={"model.length": 128})


@takes("needs `lengthen branch`: this begins anew")
def test_train_does_not_begin_the_settings_of_a_branch_anew(parent: Path, tmp_path: Path) -> None:
    branch(parent, tmp_path / "new", at="8", quiet=True)
    with pytest.raises(SettingError, match="run.branched_from: needs `lengthen branch`"):
        train(tmp_path / "new/config.toml", tmp_path / "again")
    assert main(["branch", str(parent), "--at", "8", "--out", str(tmp_path / "again")]) == 0


def test_a_dry_run_prints_the_settings_and_writes_nothing(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["branch", str(parent), "--out", str(tmp_path / "new"), "--model.length", "128"]
    assert main([*words, "--dry-run"]) == 0
    assert "length = 128" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new/mine").touch()
    assert main([*words, "--dry-run"]) == 2
    assert "--out: must be a new or empty directory" in capsys.readouterr().err
    assert main(["branch", str(parent), "--out", str(parent / "in"), "--dry-run"]) == 2
    assert "--out: must be a directory outside RUN" in capsys.readouterr().err

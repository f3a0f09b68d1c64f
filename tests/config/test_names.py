"""What other tools call a setting or a command is answered with our name for it, in one line."""

import re
from pathlib import Path

import pytest

from lengthen.cli.commands import COMMANDS
from lengthen.cli.main import main
from lengthen.config import names
from lengthen.config.load import NAMES, load, right_setting
from lengthen.util.errors import SettingError

# An option of another tool -> what stands in the answer.
OPTIONS = {
    "--lr": "--optimizer.learning_rate",
    "--learning-rate": "--optimizer.learning_rate",
    "--batch-size": "--batch.rows, sequences of one step over all ranks",
    "--batch_size": "--batch.rows",
    "--per_device_train_batch_size": "--batch.rows",
    "--block-size": "--model.length",
    "--seq-length": "--model.length",
    "--context-length": "--model.length",
    "--max-iters": "--budget.tokens = steps x batch.rows x model.length",
    "--max-steps": "--budget.tokens = steps x batch.rows x model.length",
    "--num-epochs": "--budget.epochs",
    "--epochs": "--budget.epochs",
    "--n-layer": "--model.layers",
    "--n-head": "--model.heads",
    "--n-embd": "--model.width",
    "--hidden-size": "--model.width",
    "--weight-decay": "--optimizer.weight_decay",
    "--warmup-iters": "--optimizer.warmup_steps",
    "--warmup-steps": "--optimizer.warmup_steps",
    "--grad-clip": "--optimizer.clip",
    "--seed": "--run.seed",
    "--dtype": "--run.precision, fp32, bf16 or fp64",
    "--fp16": "--run.precision",
    "--bf16": "--run.precision",
    "--wandb": "--run.trackers, tensorboard or wandb",
    "--output-dir": "--out",
    "--dataset": "--data, a token store that `lengthen prepare` makes",
    "--gradient-accumulation-steps": "--batch.micro_tokens, tokens of one forward pass",
    "--eval-interval": "--evaluation.every_steps",
    "--eval-iters": "--evaluation.tokens",
    "--always-save-checkpoint": "--saving.every_steps",
    "--decay-lr": "--optimizer.schedule, constant for no fall",
    "--lr-scheduler-type": "--optimizer.schedule",
    "--log-interval": "`lengthen report RUN`",
    "--eval-only": "`lengthen eval RUN`",
    "--bias": "--model.bias",
    "--backend": "--run.device",
    "--tokens": "--budget.tokens or --evaluation.tokens",
    "--start": "--pacing.start",
}

# A setting of another tool, or in the wrong table -> ours.
SETTINGS = {
    "train.lr": "optimizer.learning_rate",
    "optimizer.lr": "optimizer.learning_rate",
    "training.batch_size": "batch.rows",
    "batch.batch_size": "batch.rows",
    "model.n_layer": "model.layers",
    "model.block_size": "model.length",
    "model.rows": "batch.rows",
    "pacing.min_difficulty": "pacing.start",
    "pacing.total_curriculum_step": "pacing.duration",
    "optimiser.clip": "optimizer.clip",
    "budget.max_iters": "budget.tokens = steps x batch.rows x model.length",
    "max_iters": "budget.tokens = steps x batch.rows x model.length",
    "learning_rate": "optimizer.learning_rate",
    "n_embd": "model.width",
    "wandb_log": "run.trackers",
}

WORDS = {
    "help": "`lengthen COMMAND --help`",
    "generate": "sample",
    "fit": "train",
    "init": "`lengthen demo`, or `lengthen prepare`",
    "finetune": "import, then resume",
    "evaluate": "eval",
}


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_another_tool_is_answered_with_ours(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([option, "3"], [f"{option}=3"]):
        line = answer(capsys, "train", "laptop-2min", *words)
        assert line.startswith(f"lengthen: {option}: no such option; use {OPTIONS[option]}")


def test_a_command_without_settings_names_its_nearest_option_or_all_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "did you mean '--losses'?" in answer(capsys, "report", "run", "--loses", "5")
    assert "one of -h, --help, --out" in answer(capsys, "report", "run", "--lr", "3")


@pytest.mark.parametrize(
    ("command", "option", "ours"),
    [
        ("sample", "--start", "--prompt"),
        ("sample", "--max_new_tokens", "--tokens"),
        ("sample", "--out_dir", "RUN alone"),
        ("eval", "--out-dir", "RUN alone"),
        ("prepare", "--dataset", "SOURCE alone, a file or folder of text"),
    ],
)
def test_an_option_of_another_tools_command_is_answered_with_that_of_ours(
    command: str, option: str, ours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(capsys, command, f"{option}=x").endswith(f"no such option; use {ours}")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_another_tool_is_answered_with_ours_wherever_it_stands(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = f"{name}: no such setting, got 4; use {SETTINGS[name]}"
    table, dot, setting = name.rpartition(".")
    file = tmp_path / "my.toml"
    head = f"[{table}]\n" if dot else ""
    file.write_text(f'recipe = "laptop-2min"\n{head}{setting} = 4\n', encoding="utf-8")
    given: list[tuple[str | Path, dict[str, int]]] = [("laptop-2min", {name: 4}), (file, {})]
    for source, changes in given:
        with pytest.raises(SettingError) as caught:
            load(source, changes)
        assert str(caught.value).startswith(expected)
    if dot:
        words = ["train", "laptop-2min", "--out", str(tmp_path / "run"), f"--{name}", "4"]
        assert answer(capsys, *words).startswith(f"lengthen: {expected}")


@pytest.mark.parametrize("word", WORDS)
def test_a_command_of_another_tool_is_answered_with_ours(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = answer(capsys, word, "train")
    assert line.startswith(f"lengthen: command: no such command, got {word!r}; use {WORDS[word]}")


def test_no_name_is_given_twice_and_none_is_ours() -> None:
    theirs = [name for group in names.SETTINGS.values() for name in group.split()]
    assert sorted(set(theirs)) == sorted(theirs)
    ours = {name.replace("_", "") for table in NAMES.values() for name in table}
    assert ours.isdisjoint(theirs)
    commands = [name for group in names.COMMANDS.values() for name in group.split()]
    assert len(set(commands)) == len(commands)
    assert COMMANDS.keys().isdisjoint(commands)


def test_every_name_given_for_another_one_exists() -> None:
    for name in names.SETTINGS:
        table, dot, setting = name.partition(" ")[0].rstrip(",").partition(".")
        assert not dot or table.startswith("`") or setting in NAMES[table]


def test_every_name_in_the_table_of_the_page_is_answered() -> None:
    page = Path(__file__).parents[2] / "docs/coming-from.md"
    _, _, names = page.read_text(encoding="utf-8").partition("## Names")
    rows = [line.strip("|").split("|") for line in names.splitlines() if line.startswith("| `")]
    assert len(rows) > 15
    for _ours, *theirs in rows:
        for foreign in re.findall(r"`([\w.-]+)`", " ".join(theirs)):
            if foreign != "optimizer":  # there only to say where litgpt's `lr` stands
                assert right_setting(f"--{foreign.split('.')[-1]}").startswith("use "), foreign

"""The command line: a mistake is one line and an exit code, and leaves nothing half-written."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import lengthen
from lengthen.cli.commands import COMMANDS
from lengthen.cli.main import main
from lengthen.run.directory import owned
from lengthen.run.metrics import read_metrics
from lengthen.util import faults

Words = list[str]


@dataclass(frozen=True)
class World:
    """What a mistake can be made with: a good store, settings and run, and a place to write."""

    store: Path
    toml: Path
    run: Path
    folder: Path

    @property
    def train(self) -> Words:
        return [
            "train",
            str(self.toml),
            "--data",
            str(self.store),
            "--out",
            str(self.folder / "out"),
        ]

    def copy(self, name: str) -> Path:
        source = {"store": self.store, "run": self.run}[name]
        return Path(shutil.copytree(source, self.folder / f"copied-{name}"))

    def text(self, content: bytes, name: str = "text.txt") -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def prepare(self, *sources: str) -> Words:
        return ["prepare", *sources, "--tokenizer", "bytes", "--out", str(self.folder / "out")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    toml = folder / "tiny.toml"
    toml.write_text(
        "[model]\nlayers = 1\nwidth = 16\nheads = 2\nlength = 64\n"
        '[pacing]\nkind = "linear"\nstart = 8\nduration = 4\n'
        "[batch]\nrows = 8\n[optimizer]\nlearning_rate = 1e-2\n[budget]\ntokens = 3000\n",
        encoding="utf-8",
    )
    words = ["train", str(toml), "--data", str(store), "--out", str(folder / "run"), "--quiet"]
    assert main(words) == 0
    return toml, folder / "run"


@pytest.fixture
def world(store: Path, trained: tuple[Path, Path], tmp_path: Path) -> World:
    return World(store, *trained, tmp_path)


def flipped(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.parent


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-2])
    return path.parent


def all_damaged(run: Path) -> Path:
    for path in (run / "checkpoints").iterdir():
        flipped(path / "model.safetensors")
    return run


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


MISTAKES: dict[str, tuple[int, str, Callable[[World], Words]]] = {
    "no such command": (2, "did you mean 'train'?", lambda _: ["trian"]),
    "no such option": (2, "did you mean '--overwrite'?", lambda w: [*w.train, "--overwrit"]),
    "no output": (2, "--out", lambda w: ["train", str(w.toml)]),
    "no such recipe": (2, "did you mean 'gpt2-117m'?", lambda _: ["plan", "gpt2-117"]),
    "no such setting": (2, "did you mean 'start'?", lambda w: [*w.train, "--pacing.stat", "9"]),
    "no such table": (2, "use pacing.start", lambda w: [*w.train, "--pacin.start", "9"]),
    "empty store": (
        2,
        "--data: the argument after it is empty; a variable of the shell may not be set",
        lambda w: ["train", str(w.toml), "--data", "", "--out", str(w.folder / "out")],
    ),
    "empty output": (2, "--out: the argument after it", lambda w: [*w.train[:-1], ""]),
    "empty output in one word": (2, "--out: the argument", lambda w: [*w.train[:-2], "--out="]),
    "empty source": (2, "prepare: the argument after it is empty", lambda w: w.prepare("")),
    "empty run": (2, "report: the argument after it is empty", lambda _: ["report", ""]),
    "empty checkpoint": (
        2,
        "--checkpoint: the argument after it is empty",
        lambda w: ["resume", str(w.run), "--checkpoint", ""],
    ),
    "empty setting": (2, "--data.path: the argument", lambda w: [*w.train, "--data.path", ""]),
    "setting without a table": (
        2,
        "--.start: must be --table.setting, such as --pacing.start",
        lambda w: [*w.train, "--.start", "8"],
    ),
    "table without a setting": (2, "--pacing.: must be", lambda w: [*w.train, "--pacing.", "8"]),
    "length over the model's": (
        2,
        "must be at most model.length (64), got 128",
        lambda w: [*w.train, "--pacing.end", "128"],
    ),
    "start over the end": (
        2,
        "pacing.start: must be at most end (64), got 65",
        lambda w: [*w.train, "--pacing.start", "65"],
    ),
    "budget under a step": (
        2,
        "budget.tokens: must be at least one step (64 tokens), got 63",
        lambda w: [*w.train, "--budget.tokens", "63"],
    ),
    "not a number": (
        2,
        "optimizer.learning_rate: must be a finite number",
        lambda w: [*w.train, "--optimizer.learning_rate", "nan"],
    ),
    "negative": (
        2,
        "batch.rows: must be at least 1, got -4",
        lambda w: [*w.train, "--batch.rows=-4"],
    ),
    "another vocabulary": (
        3,
        "has a vocabulary of 257, model.vocabulary is 50257",
        lambda w: [*w.train, "--model.vocabulary", "50257"],
    ),
    "no store there": (
        3,
        "nowhere",
        lambda w: ["train", str(w.toml), "--data", "nowhere", "--out", str(w.folder / "out")],
    ),
    "no store given": (
        2,
        "data.path: is missing",
        lambda w: ["train", str(w.toml), "--out", str(w.folder / "out")],
    ),
    "truncated store": (
        3,
        "train.bin",
        lambda w: [
            "train",
            str(w.toml),
            "--data",
            str(cut(w.copy("store") / "train.bin")),
            "--out",
            str(w.folder / "out"),
        ],
    ),
    "altered store": (
        3,
        "train.bin",
        lambda w: ["verify", str(flipped(w.copy("store") / "train.bin"))],
    ),
    "text too short for a sequence": (
        3,
        "needs at least",
        lambda w: [
            *w.train,
            "--model.length",
            "65536",
            "--batch.rows",
            "1",
            "--budget.tokens",
            "1M",
        ],
    ),
    "empty corpus": (3, "", lambda w: w.prepare(w.text(b""))),
    "invalid UTF-8": (3, "text.txt", lambda w: w.prepare(w.text(b"fine\n\xff\xfe bad\n"))),
    "a million empty documents": (
        3,
        "",
        lambda w: w.prepare(w.text(b'{"text":""}\n' * 1_000_000, "many.jsonl")),
    ),
    "no such source": (2, "missing.txt", lambda w: w.prepare(str(w.folder / "missing.txt"))),
    "output that exists": (
        2,
        "--out: must be a new or empty directory",
        lambda w: ["train", str(w.toml), "--data", str(w.store), "--out", str(w.run)],
    ),
    "no run there": (2, "RUN: must be a run's directory", lambda w: ["resume", str(w.folder)]),
    "no such checkpoint": (
        4,
        "there are: step-",
        lambda w: ["resume", str(w.run), "--checkpoint", "step-00009999"],
    ),
    "damaged checkpoint": (
        4,
        "sha256 differs",
        lambda w: ["verify", str(flipped(newest(w.copy("run")) / "model.safetensors").parents[1])],
    ),
    "every checkpoint damaged": (
        4,
        "no usable checkpoint",
        lambda w: ["sample", str(all_damaged(w.copy("run")))],
    ),
    "fixed setting on resume": (
        2,
        "model.layers: cannot change in the middle of a run",
        lambda w: ["resume", str(w.run), "--model.layers", "3"],
    ),
    "another half-life on resume": (
        2,
        "optimizer.beta2_half_life: cannot change in the middle of a run",
        lambda w: ["resume", str(w.run), "--optimizer.beta2_half_life", "3000"],
    ),
    "other betas on resume": (
        2,
        "optimizer.betas: cannot change in the middle of a run",
        lambda w: ["resume", str(w.run), "--optimizer.betas", "0.9,0.99"],
    ),
    "settings where none are taken": (
        2,
        "verify takes no settings",
        lambda w: ["verify", str(w.store), "--run.seed", "3"],
    ),
    "a file in the way": (
        2,
        "must be a directory",
        lambda w: ["train", str(w.toml), "--data", str(w.store), "--out", f"{w.toml}/run"],
    ),
    "a name too long": (2, "file name too long", lambda w: ["resume", "x" * 300]),
    "a list for a kind": (2, "no such pacing", lambda w: [*w.train, "--pacing.kind", "[1]"]),
    "a number beyond all": (
        2,
        "budget.tokens: must be a whole number",
        lambda w: [*w.train, "--budget.tokens", "'1e9999999'"],
    ),
    "a thousand brackets": (
        2,
        "batch.rows: must be a whole number",
        lambda w: [*w.train, "--batch.rows", "[" * 5000],
    ),
    "an endless temperature": (
        2,
        "--temperature: must be at least 0, and finite",
        lambda w: ["sample", str(w.run), "--temperature", "inf"],
    ),
    "no text for the demo": (
        2,
        "--text: must be a file",
        lambda w: ["demo", "--text", "missing.txt", "--out", str(w.folder / "out")],
    ),
    "nothing to verify": (
        2,
        "must be a token store, a run or a checkpoint",
        lambda w: ["verify", str(w.folder)],
    ),
}


LONG = "a million empty documents"


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == LONG else ()) for name in MISTAKES],
)
def test_a_mistake_is_one_line_an_exit_code_and_nothing_half_written(
    world: World, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, text, words = MISTAKES[name]
    arguments = words(world)
    capsys.readouterr()
    before = sorted(world.folder.iterdir())
    assert main(arguments) == code
    errors = capsys.readouterr().err
    assert text in errors
    assert errors.startswith("lengthen: ")
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    assert sorted(world.folder.iterdir()) == before


def test_f18_a_run_in_use_by_another_process_is_left_alone(world: World) -> None:
    run = world.copy("run")
    before = (run / "metrics.jsonl").read_bytes()
    with owned(run):
        code = "import sys; from lengthen.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "resume", str(run)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert f"in use by pid {os.getpid()}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (run / "metrics.jsonl").read_bytes() == before


def test_f04_a_full_disk_is_one_line_and_the_older_checkpoint_stays(world: World) -> None:
    run = world.copy("run")
    code = (
        "import resource, signal, sys; from lengthen.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "sys.exit(main(['resume', sys.argv[1], '--budget.tokens', '4K', '--quiet']))"
    )
    before = newest(run).name
    command = [sys.executable, "-c", code, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 8, done.stderr
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert newest(run).name == before
    assert main(["verify", str(run)]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"  lengthen {name}" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"lengthen {lengthen.__version__}\n"


def test_the_same_seed_samples_the_same_text(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for seed in ("1", "1", "2"):
        assert (
            main(["sample", str(world.run), "--prompt", "the ", "--tokens", "40", "--seed", seed])
            == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("the ")


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["--pacing.kind", "constant"],
        ["--pacing.of", "rows", "--pacing.start", "1"],
        ["--batch.hold", "tokens"],
        ["--pacing.duration", "500"],
        ["--budget.epochs", "0.05"],
    ],
    ids=" ".join,
)
def test_the_plan_is_exactly_the_run(
    world: World, capsys: pytest.CaptureFixture[str], settings: Words
) -> None:
    base = [str(world.toml), "--data", str(world.store), *settings]
    assert main(["plan", *base]) == 0
    plan = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert main(["train", *base, "--out", str(world.folder / "run"), "--quiet"]) == 0
    steps = read_metrics(world.folder / "run" / "metrics.jsonl").steps
    assert plan["steps"].partition(", the last")[0] == f"{len(steps):,}"
    assert plan["tokens"].split(", ")[0] == f"{steps[-1].tokens:,}"
    lengths = {step.length or 0 for step in steps}
    assert f"{min(lengths)} " in plan["lengths"]


def test_resume_auto_takes_the_store_from_where_it_lies_now(world: World) -> None:
    moved = shutil.copytree(world.store, world.folder / "moved")
    words = ["train", str(world.toml), "--data", str(moved), "--out", str(world.copy("run"))]
    assert main([*words, "--resume", "auto", "--quiet"]) == 0


def test_resume_auto_goes_on_with_the_same_run_and_refuses_another(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["train", str(world.toml), "--data", str(world.store), "--out", str(world.copy("run"))]
    assert main([*base, "--resume", "auto", "--quiet"]) == 0
    assert main([*base, "--resume", "auto", "--quiet", "--batch.rows", "4"]) == 2
    assert "batch.rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [("/dev/full", 8, "lengthen: no space left on device\n"), ("a closed pipe", 0, "")],
)
def test_f21_output_that_goes_nowhere_is_told_unless_its_reader_has_gone(
    world: World, place: str, code: int, said: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = os.open(place, os.O_WRONLY) if place == "/dev/full" else writer
    command = [sys.executable, "-m", "lengthen", "verify", str(world.run)]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


def test_f21_output_that_is_closed_from_the_start_is_no_failure(world: World) -> None:
    words = [sys.executable, "-m", "lengthen", "verify", str(world.run)]
    command = ["sh", "-c", '"$@" >&-', "sh", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_an_output_has_no_letter_for_is_written_out(tmp_path: Path) -> None:
    log = tmp_path / "\xe9.csv"
    log.write_text("s,l\n1,2\n")
    words = ["report", str(log), "--columns", "step=s", "loss=l"]
    command = [sys.executable, "-m", "lengthen", *words]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "\\xe9.csv"), done.stderr


def test_f21_an_error_stream_that_is_closed_from_the_start_changes_no_exit_code() -> None:
    for words, code in ((["bogus"], 2), (["--version"], 0)):
        command = ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "lengthen", *words]
        assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_f21_output_that_goes_nowhere_does_not_hide_an_error(world: World) -> None:
    words = [sys.executable, "-m", "lengthen", "verify", str(world.folder / "nothing")]
    with open("/dev/full", "w") as full:
        assert subprocess.run(words, stdout=full, check=False).returncode == 2


def test_f21_a_note_that_nobody_reads_stops_nothing(world: World) -> None:
    words = ["train", "laptop-2min", "--pacing.kind", "constant", "--data", str(world.folder)]
    command = [sys.executable, "-m", "lengthen", *words, "--out", str(world.folder / "r")]
    code = subprocess.run(command, stderr=subprocess.PIPE, check=False).returncode
    reader, writer = os.pipe()
    os.close(reader)
    assert code == 3
    assert subprocess.run(command, stderr=writer, check=False).returncode == code


def test_a_mistake_in_a_fault_on_purpose_is_told_before_it_reads_like_damage(
    world: World,
) -> None:
    command = [sys.executable, "-m", "lengthen", "verify", str(world.run)]
    environment = {**os.environ, faults.VARIABLE: "lod:1:eio"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "LENGTHEN_FAULT" in done.stderr
    assert "'load'" in done.stderr


def test_f21_training_goes_on_when_nobody_reads_its_lines(world: World) -> None:
    words = ["train", str(world.toml), "--data", str(world.store), "--out", str(world.folder / "r")]
    process = subprocess.Popen([sys.executable, "-m", "lengthen", *words], stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait() == 0
    assert read_metrics(world.folder / "r" / "metrics.jsonl").evaluations


def test_the_exit_code_is_left_where_a_launch_file_asks_for_it(world: World) -> None:
    """A launcher's own is 1 whatever happened; the cause counts more than its consequence."""
    left = world.folder / "code"
    environment = {**os.environ, "LENGTHEN_EXIT_FILE": str(left)}
    lost = "import sys; from lengthen.cli import main; main._leave(9)"
    wrong = ["-m", "lengthen", "train", "nosuch", "--data", str(world.store), "--out", "run"]
    for words, said in ((["-c", lost], "9"), (wrong, "2"), (["-c", lost], "2")):
        subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=False)
        assert left.read_text().strip() == said
    left.unlink()
    done = [sys.executable, "-m", "lengthen", "--version"]
    subprocess.run(done, env=environment, capture_output=True, check=True)
    assert not left.exists()

"""`lengthen launch`: the file with which another program starts a run on many machines."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from lengthen.cli.command import Command, Parser, Settings
from lengthen.cli.overrides import parse_value
from lengthen.util.disk import as_line
from lengthen.util.errors import SettingError

Lines = dict[str, object]  # by what they begin with
SAVE_SECONDS = 600  # before a job's end, when every process saves: `--signal` in slurm.sbatch


def _arguments(parser: Parser) -> None:
    systems = ("slurm", "slurm-array")
    parser.add_argument("system", choices=systems, help="one run, or those of a comparison")
    what = "a recipe or file, or what --lay-out of compare wrote"
    parser.add_argument("what", metavar="RECIPE|FILE.toml|DIR", help=what)
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--nodes", type=int, default=1, help="machines (1)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each machine (0: CPUs alone)")
    parser.add_argument("--cpus", type=int, help="cores of each machine (4 for each GPU)")
    parser.add_argument(
        "--time", required=True, help="time limit of a job in SLURM's format: 4:00:00"
    )
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="write to a file, not to standard output"
    )
    parser.add_argument("--submit", action="store_true", help="submit the file by sbatch")


def _run(options: argparse.Namespace, settings: Settings) -> int:
    for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise SettingError(f"--{name}", f"must be at least {least}", value)
    if _seconds(options.time) <= SAVE_SECONDS:
        rule = f"must be more than the {SAVE_SECONDS // 60} minutes that a save may take at its end"
        raise SettingError("--time", rule, options.time)
    array = options.system == "slurm-array"
    lines = _of_array(options, settings) if array else _of_run(options, settings)
    text = _sbatch(options, lines)
    if options.to is not None:
        _write(options.to, text)
    elif not options.submit:
        print(text, end="")
    if options.submit:
        print(_submit(text), end="")
    return 0


def _seconds(text: str) -> int:
    """Read M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; raises SettingError."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        rule = "must be a time as SLURM has it, such as 4:00:00 or 2-00:00:00"
        raise SettingError("--time", rule, text)
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    units = (60, 1) if days is None and len(parts) < 3 else (3600, 60, 1)
    return int(days or 0) * 86400 + sum(n * unit for n, unit in zip(parts, units, strict=False))


def _of_run(options: argparse.Namespace, settings: Settings) -> Lines:
    """Return values of slurm.sbatch for one run; raises what no rank could train with."""
    from lengthen.config.load import load
    from lengthen.training.start import check_start
    from lengthen.util.console import say

    if options.out is None:
        raise SettingError("--out", "is missing", None, "give a directory for the run")
    for name, path in (("RECIPE", options.what), ("--out", options.out)):
        as_line(name, Path(path))
    config, notes = load(options.what, settings, data=options.data)
    say(notes)
    check_start(config, options.out, overwrite=False, resume_auto=True)
    data = ["--data", options.data] if options.data else []
    given = [word for name, value in settings.items() for word in (f"--{name}", _word(value))]
    words = shlex.join([options.what, *data, "--out", str(options.out), *given])
    return {
        "#SBATCH --job-name=": _job_name(options.out),
        "#SBATCH --nodes=": options.nodes,
        "words=": f"({words})",
        "python=": shlex.quote(sys.executable),
    }


def _of_array(options: argparse.Namespace, settings: Settings) -> Lines:
    """Return them for the runs of a comparison, a task each: any of them on part of a machine."""
    from lengthen.experiments.compare.run import COMMANDS

    decided = {"data": options.data, "out": options.out, **settings}
    for name, value in decided.items():
        if value is not None:
            hint = "give it to `lengthen compare --lay-out`"
            raise SettingError(f"--{name}", "is decided where the runs are laid out", value, hint)
    if options.nodes != 1:
        raise SettingError("--nodes", "must be 1 for a run of an array", options.nodes)
    file = Path(options.what).resolve() / COMMANDS
    if not file.is_file():
        hint = "`lengthen compare --lay-out` writes it"
        raise SettingError("DIR", f"has no {COMMANDS}", options.what, hint)
    commands = file.read_text(encoding="utf-8").splitlines()
    if not commands:
        raise SettingError("DIR", "has no run that is left to train", options.what)
    if shlex.split(commands[0])[3:5] != ["lengthen", "train"]:
        rule = f"has commands of another trainer in {COMMANDS}"
        raise SettingError("DIR", rule, options.what, "write an array of your own for them")
    line = f'sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(file))}'
    return {
        "#SBATCH --job-name=": _job_name(file.parent),
        "#SBATCH --nodes=": 1,
        "#SBATCH --exclusive": f"\n#SBATCH --array=0-{len(commands) - 1}",
        # What follows `python -P -m lengthen train` in the run's command.
        "words=": f'; eval "words=($({line}))"; words=("${{words[@]:5}}")',
        "python=": shlex.quote(sys.executable),
    }


def _job_name(path: Path) -> str:
    """Return a directory's name without what sbatch would take for more than one word."""
    return re.sub(r"[^\w.+-]", "_", path.resolve().name)


def _sbatch(options: argparse.Namespace, lines: Lines) -> str:
    """Return slurm.sbatch with these values behind what its lines begin with."""
    lines |= {
        "#SBATCH --gpus-per-node=": options.gpus,
        "#SBATCH --cpus-per-task=": options.cpus or 4 * max(options.gpus, 1),
        "#SBATCH --time=": options.time,
    }
    template = (files("lengthen.cli") / "slurm.sbatch").read_text(encoding="utf-8")
    text = "".join(
        next((f"{start}{lines[start]}\n" for start in lines if line.startswith(start)), line)
        for line in template.splitlines(keepends=True)
    )
    text = text.replace("#SBATCH --exclusive\n#SBATCH --array", "#SBATCH --array")
    return text if options.gpus else text.replace("#SBATCH --gpus-per-node=0\n", "")


def _word(value: object) -> str:
    """Return a setting's value as the command line has it."""
    if isinstance(value, str) and parse_value(value) == value:
        return value
    return json.dumps(value)


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        rule = "is there already, and may have been edited"
        raise SettingError("--to", rule, str(path), "remove it, or give another name") from None


def _submit(text: str) -> str:
    try:
        done = subprocess.run(["sbatch"], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        hint = "write it --to a file, and submit that where there is one"
        raise SettingError("--submit", "there is no sbatch on this machine", None, hint) from None
    if done.returncode:
        raise SettingError("--submit", f"sbatch refuses it: {' '.join(done.stderr.split())}")
    return done.stdout


COMMAND = Command(
    "Write the file with which SLURM trains a run on many machines, or many runs.",
    """
  lengthen launch slurm gpt2-1.5b --data store --out runs/first --nodes 4 --gpus 8 --time 4:00:00
  lengthen launch slurm my.toml --out runs/first --nodes 2 --time 1-0 --cpus 64 --to first.sbatch
  lengthen launch slurm my.toml --out runs/first --nodes 2 --gpus 8 --time 4:00:00 --submit
  lengthen launch slurm-array runs/timed --gpus 1 --time 4:00:00 --submit
""",
    _arguments,
    _run,
    takes_settings=True,
)

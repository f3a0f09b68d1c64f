"""The commands that make something: demo, prepare, train, resume, compare, tune."""

import argparse
import os
from pathlib import Path

from lengthen.cli.command import Command, Parser, print_lines, print_notes, with_data
from lengthen.config.load import load
from lengthen.config.recipes import RECIPES
from lengthen.config.schema import Tables
from lengthen.util.errors import SettingError


def _demo_arguments(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where it goes (demo)")
    parser.add_argument("--text", type=Path, help="your own text instead of the Python library")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo")


def _demo(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.experiments.demo import demo

    demo(options.out, text=options.text, overwrite=options.overwrite)
    return 0


def _prepare_arguments(parser: Parser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, glob or -")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the store")
    parser.add_argument(
        "--tokenizer",
        default="train:8192",
        help="train:N, a tokenizer.json, a folder, gpt2, gpt2:FOLDER or bytes (train:8192)",
    )
    parser.add_argument(
        "--separator", metavar="TOKEN", help="between documents (the tokenizer's end of text)"
    )
    parser.add_argument("--valid", type=float, default=0.01, help="validation share (0.01)")
    parser.add_argument(
        "--valid-files", nargs="+", default=[], metavar="FILE", help="validation text instead"
    )
    parser.add_argument("--field", default="text", help="the text's name in JSON, tables (text)")
    parser.add_argument(
        "--stdin-format", choices=("txt", "jsonl"), default="txt", help="what - carries (txt)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of sample and validation part (0)")
    parser.add_argument(
        "--on-bad", choices=("stop", "skip"), default="stop", help="unreadable documents (stop)"
    )
    parser.add_argument("--workers", type=int, help="cores (all)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier store")


def _prepare(options: argparse.Namespace, _: Tables) -> int:
    from lengthen.data.prepare import prepare

    named = {name: value for name, value in vars(options).items() if name != "command"}
    try:
        print(prepare(named.pop("sources"), named.pop("out"), **named))
    except SettingError as error:
        if error.setting not in vars(options):
            raise
        option = f"--{error.setting.replace('_', '-')}"
        raise SettingError(option, error.rule, error.value, error.hint) from None
    return 0


def _train_arguments(parser: Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE|FILE.toml", help=", ".join(RECIPES))
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="where it goes")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    parser.add_argument(
        "--resume", choices=("auto",), help="go on with the same run if it is there, for launchers"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line")


def _train(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.training.start import train

    config, notes = load(options.recipe, with_data(overrides, options.data))
    print_notes(notes)
    summary = train(
        config,
        options.out,
        overwrite=options.overwrite,
        resume_auto=options.resume == "auto",
        shown=not options.quiet,
    )
    return _print_summary(options.out, summary)


def _resume_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory")
    parser.add_argument("--checkpoint", metavar="step-N", help="this one, not the newest good one")
    parser.add_argument("--quiet", action="store_true", help="no progress line")


def _resume(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.training.start import resume

    shown = not options.quiet
    summary = resume(options.run, overrides=overrides, name=options.checkpoint, shown=shown)
    return _print_summary(options.run, summary)


def _print_summary(run: Path, summary: dict[str, object]) -> int:
    from lengthen.run.directory import RunPaths, read_metrics

    if os.environ.get("RANK", "0") != "0":
        return 0
    evaluations = read_metrics(RunPaths(run).metrics).of("eval")
    lines = [(name.replace("_", " "), _figure(value)) for name, value in summary.items()]
    if evaluations:
        loss = evaluations[-1]["loss"]
        lines.append(("validation loss", "not finite" if loss is None else f"{loss:.4f}"))
    return print_lines(lines)


def _figure(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _compare_arguments(parser: Parser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="variants, grid and seeds")
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument("--jobs", type=int, help="runs side by side (one a GPU, else one a core)")
    parser.add_argument("--threads", type=int, help="of each run (the cores, shared out)")
    parser.add_argument("--look", action="store_true", help="train nothing: tables so far")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _compare(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.experiments.compare.compare import compare

    compare(
        options.file,
        options.out,
        overrides=with_data(overrides, options.data),
        jobs=options.jobs,
        threads=options.threads,
        look=options.look,
        shown=not options.quiet,
    )
    return 0


def _tune_arguments(parser: Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE|FILE.toml", help=", ".join(RECIPES))
    parser.add_argument("--data", metavar="DIR", help="a token store; sets data.path")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument(
        "--starts",
        nargs="+",
        type=int,
        default=[],
        metavar="TOKENS",
        help="start lengths to try (8, or 64 from a billion parameters on, doubled up to a quarter "
        "of full length)",
    )
    parser.add_argument(
        "--judge-tokens",
        type=int,
        help="validation tokens of each evaluation in a race (6656); others read a quarter",
    )
    parser.add_argument(
        "--aggressive", action="store_true", help="then the largest learning rate and rows, too"
    )
    parser.add_argument("--jobs", type=int, help="trials side by side (a GPU or 4 cores each)")
    parser.add_argument("--threads", type=int, help="of each trial (the cores, shared out)")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _tune(options: argparse.Namespace, overrides: Tables) -> int:
    from lengthen.experiments.tune.tune import tune

    config, notes = load(options.recipe, with_data(overrides, options.data))
    print_notes(notes)
    tune(
        config,
        options.out,
        starts=options.starts,
        judge_tokens=options.judge_tokens,
        aggressive=options.aggressive,
        jobs=options.jobs,
        threads=options.threads,
        shown=not options.quiet,
    )
    return 0


WORK = {
    "demo": Command(
        "Train a small GPT three ways and compare them, in about two minutes.",
        """
  lengthen demo
  lengthen demo --text my-novel.txt --out my-demo
""",
        _demo_arguments,
        _demo,
        computes=True,
    ),
    "prepare": Command(
        "Turn text into a token store.",
        """
  lengthen prepare books/ --out store
  lengthen prepare 'data/*.jsonl.zst' --field content --tokenizer train:32768 --out store
  lengthen prepare train.txt --valid-files valid.txt --tokenizer gpt2 --out store
  zcat dump.gz | lengthen prepare - --stdin-format jsonl --out store
""",
        _prepare_arguments,
        _prepare,
    ),
    "train": Command(
        "Train a GPT on a token store.",
        """
  lengthen train laptop-10min --data store --out runs/first
  lengthen train my.toml --data store --out runs/second --pacing.start 8 --pacing.duration 200
  lengthen train runs/first/config.toml --out runs/again      the same run once more
  torchrun --nproc-per-node 4 -m lengthen train gpt2-117m --data store --out run --resume auto
""",
        _train_arguments,
        _train,
        takes_settings=True,
        computes=True,
    ),
    "resume": Command(
        "Go on with a run from its newest good checkpoint.",
        """
  lengthen resume runs/first
  lengthen resume runs/first --budget.tokens 20M
  lengthen resume runs/first --checkpoint step-00001000 --run.on_nonfinite skip
""",
        _resume_arguments,
        _resume,
        takes_settings=True,
        computes=True,
    ),
    "compare": Command(
        "Train variants under equal budgets over several seeds, and say what can be told apart.",
        """
  lengthen compare examples/controls.toml --data store --out runs/controls
  lengthen compare examples/controls.toml --data store --out runs/controls    goes on where it was
  lengthen compare my.toml --data store --out runs/timed --jobs 1             seconds count, too
  lengthen compare my.toml --out runs/timed --look                            tables so far
""",
        _compare_arguments,
        _compare,
        takes_settings=True,
    ),
    "tune": Command(
        "Find start and duration of the length warmup for a new model, by short trials.",
        """
  lengthen tune laptop-10min --data store --out runs/tuned
  lengthen tune laptop-10min --data store --out runs/tuned    goes on where it was
  lengthen tune my.toml --data store --out runs/tuned --starts 8 16 32 --aggressive
  lengthen train runs/tuned/tuned.toml --out runs/first
""",
        _tune_arguments,
        _tune,
        takes_settings=True,
    ),
}

"""A trial: the beginning of a training with one setting, an ordinary run in a directory of its own.

    DIR/trials/start-8-T-80-1f0c55aa/        the run; the digits are those of its configuration

So a trial is never done twice: whoever asks for the same configuration, with the same versions of
what computes it, finds it there, and another configuration lies beside it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from pathlib import Path
from statistics import fmean

from lengthen.checkpoint.verify import list_checkpoints
from lengthen.config.schema import Config, Model
from lengthen.experiments.status import Standing, standing_of
from lengthen.experiments.tune.problem import Question
from lengthen.experiments.tune.search import Setting
from lengthen.experiments.tune.stability import Judgement, judge
from lengthen.model import cost
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.run.records import EvalRecord, StepRecord
from lengthen.util.disk import Disk

TRIALS = "trials"  # in a tuner's directory
DIGITS = 8  # of a configuration's hash, in its trial's name
VERSIONS = ("lengthen", "torch")  # another one computes another trial
LAST_LOOKS = 3  # evaluations, whose mean is the loss at the end (ours)
FORWARD = 3  # an evaluation is a forward pass: a third of a training step's arithmetic


@dataclass(frozen=True)
class Trial:
    """One setting to be tried."""

    setting: Setting
    config: Config
    steps: int
    label: str  # for people

    @property
    def name(self) -> str:
        """Where it lies below the trials."""
        return f"{_in_a_name(self.label)}-{_digest(self.config)}"


def trial_of(question: Question, setting: Setting) -> Trial:
    """Return the trial of a setting."""
    label = label_of(question, setting)
    return Trial(setting, question.beginning(setting), question.steps(setting), label)


def label_of(question: Question, setting: Setting) -> str:
    """Return what the trial of a setting is called."""
    label = f"start {setting.start}, T {setting.multiple * question.warmup}"
    if setting.rate > 1:
        label += f", rate x{setting.rate}"
    if setting.rows > 1:
        label += f", rows x{setting.rows}"
    if setting.opening:
        label += ", beginning"
    if setting.raced:
        label += ", race"
    return label


def _in_a_name(label: str) -> str:
    return label.replace(",", "").replace(" ", "-")


def _digest(config: Config) -> str:
    # A store may move: its id is what counts.
    tables = {**config.tables(), "data": {"store_id": config.data.store_id}}
    tables["versions"] = {name: version(name) for name in VERSIONS}
    text = json.dumps(tables, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Work:
    """What was computed: training and evaluating, without starting, saving and waiting."""

    tokens: int = 0  # trained
    judged: int = 0  # validation tokens that evaluations read
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.tokens + other.tokens,
            self.judged + other.judged,
            self.flops + other.flops,
            self.seconds + other.seconds,
        )


def step_flops(config: Config, rows: int, length: int) -> int:
    """Return the operations of a training step, what `run.recompute` does once more included."""
    return cost.flops(config.model, rows, length, recompute=config.run.recompute)


def evaluation_flops(model: Model, tokens: int) -> float:
    """Return the operations of reading so many validation tokens, at full length."""
    return cost.flops(model, tokens // model.length, model.length) / FORWARD


def work_of(
    config: Config,
    steps: Sequence[StepRecord],
    evaluations: Sequence[EvalRecord],
    before: float = 0.0,
) -> Work:
    """Return the work that these records show; `before` are the seconds of the step before."""
    shapes = [(step.rows or 0, step.length or 0) for step in steps]
    judged = sum(one.side_tokens or 0 for one in evaluations)
    flops = sum(step_flops(config, rows, length) for rows, length in shapes)
    training = (steps[-1].seconds or 0.0) - before if steps else 0.0
    return Work(
        tokens=sum(rows * length for rows, length in shapes),
        judged=judged,
        flops=flops + evaluation_flops(config.model, judged),
        seconds=training + sum(one.side_seconds or 0.0 for one in evaluations),
    )


@dataclass(frozen=True)
class Seen:
    """What a trial has shown so far."""

    trial: Trial
    judgement: Judgement
    metrics: Metrics

    @property
    def is_decided(self) -> bool:
        """Whether no further step can change the verdict."""
        return self.judgement.word != "undecided"

    @property
    def is_calm(self) -> bool:
        """Whether it came to its end without a significant fluctuation."""
        return self.judgement.word == "calm"

    @property
    def loss(self) -> float:
        """Nats at its end, over its last evaluations, since one alone jumps; inf: not calm."""
        if not self.is_calm:
            return inf
        last = self.metrics.evaluations[-LAST_LOOKS:]
        return fmean(inf if one.loss is None else one.loss for one in last)

    @property
    def steps(self) -> int:
        """Steps that it trained."""
        return len(self.metrics.steps)

    @property
    def work(self) -> Work:
        """What it has computed."""
        return work_of(self.trial.config, self.metrics.steps, self.metrics.evaluations)


def losses(seen: Iterable[Seen]) -> dict[Setting, float]:
    """Return what a search knows by these trials (search.Known): those without verdict left out."""
    return {one.trial.setting: one.loss for one in seen if one.is_decided}


def place_of(root: Path, trial: Trial) -> Path:
    """Return a trial's directory in the tuner's directory `root`."""
    return root / TRIALS / trial.name


def read(root: Path, trial: Trial) -> Seen:
    """Read a trial that no process works on.

    Raises SettingError where another run lies in its place.
    """
    return _seen(trial, standing_of(place_of(root, trial), trial.config))


def outcomes(question: Question, root: Path) -> Callable[[Setting], float | None]:
    """Give what tells the loss at which a setting's trial ended, None where it has no verdict."""
    place = root / TRIALS
    # Few settings were ever tried, and a name is there sooner than a configuration.
    there = {path.name.rpartition("-")[0] for path in place.iterdir()} if place.is_dir() else set()

    def outcome(setting: Setting) -> float | None:
        if _in_a_name(label_of(question, setting)) not in there:
            return None
        seen = read(root, trial_of(question, setting))
        return seen.loss if seen.is_decided else None

    return outcome


def read_running(root: Path, trial: Trial) -> Seen:
    """Read a trial whose process may be about to replace any of its files."""
    try:
        metrics = read_metrics(RunPaths(place_of(root, trial)).metrics)
    except FileNotFoundError:
        metrics = Metrics((), 0)
    return _seen(trial, Standing("begun", metrics))


def _seen(trial: Trial, standing: Standing) -> Seen:
    metrics = standing.metrics
    curve = [(record.step, record.loss) for record in metrics.evaluations]
    judgement = judge(curve, trial.steps)
    if judgement.word == "undecided" and standing.state == "diverged":
        why = f"step {metrics.records[-1].step} is not finite"
        judgement = Judgement("not calm", why, "not finite")
    return Seen(trial, judgement, metrics)


def redone(root: Path, trial: Trial) -> Work:
    """Return what a trial that goes on now computes again: all behind its newest checkpoint."""
    saved = list_checkpoints(RunPaths(place_of(root, trial)).checkpoints)
    kept = int(saved[0].name.removeprefix("step-")) if saved else 0
    metrics = read_running(root, trial).metrics
    before = (step.seconds or 0.0 for step in metrics.steps if step.step == kept)
    steps = [step for step in metrics.steps if step.step > kept]
    evaluations = [one for one in metrics.evaluations if one.step > kept]
    return work_of(trial.config, steps, evaluations, next(before, 0.0))


def drop_checkpoints(root: Path, trial: Trial) -> None:
    """Delete the checkpoints of a trial that nobody will go on with."""
    checkpoints = RunPaths(place_of(root, trial)).checkpoints
    if checkpoints.exists():
        Disk().remove(checkpoints)

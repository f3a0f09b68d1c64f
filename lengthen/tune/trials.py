"""A trial: the beginning of a training with one setting, an ordinary run in a directory of its own.

    DIR/trials/start-8-T-80-1f0c55aa/        the run; the digits are those of its configuration

So a trial is never done twice: whoever asks for the same configuration finds it there, and another
configuration lies beside it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from lengthen import cost
from lengthen.compare.standing import Standing, standing_of
from lengthen.config import Config
from lengthen.disk import Disk
from lengthen.runlog import Metrics, RunPaths, read_metrics
from lengthen.tune.calm import Judgement, judge
from lengthen.tune.question import Question
from lengthen.tune.search import Setting

TRIALS = "trials"  # in a tuner's directory
DIGITS = 8  # of a configuration's hash, in its trial's name
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
        words = self.label.replace(",", "").replace(" ", "-")
        return f"{words}-{_digest(self.config)}"


def trial_of(question: Question, setting: Setting) -> Trial:
    """Return the trial of a setting."""
    config = question.beginning(setting)
    label = f"start {setting.start}, T {setting.multiple * question.warmup}"
    if setting.rate > 1:
        label += f", rate x{setting.rate}"
    if setting.rows > 1:
        label += f", rows x{setting.rows}"
    return Trial(setting, config, question.steps, label)


def _digest(config: Config) -> str:
    # A store may move: its id is what counts.
    tables = {**config.tables(), "data": {"store_id": config.data.store_id}}
    text = json.dumps(tables, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


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
    def steps(self) -> int:
        """Steps that it trained."""
        return len(self.metrics.of("step"))

    @property
    def tokens(self) -> int:
        """Trained tokens."""
        return sum(int(step["rows"]) * int(step["length"]) for step in self.metrics.of("step"))

    @property
    def judged(self) -> int:
        """Validation tokens that its evaluations read."""
        return sum(int(record["side_tokens"]) for record in self.metrics.of("eval"))

    @property
    def seconds(self) -> float:
        """Seconds of training and evaluating; starting and saving are not in it."""
        steps = self.metrics.of("step")
        training = float(steps[-1]["seconds"]) if steps else 0.0
        return training + sum(float(record["side_seconds"]) for record in self.metrics.of("eval"))

    @property
    def flops(self) -> float:
        """Operations of training and evaluating."""
        model = self.trial.config.model
        training = sum(
            cost.flops(model, step["rows"], step["length"]) for step in self.metrics.of("step")
        )
        sequences = self.judged // model.length
        return training + cost.flops(model, sequences, model.length) / FORWARD


def place_of(root: Path, trial: Trial) -> Path:
    """Return a trial's directory in the tuner's directory `root`."""
    return root / TRIALS / trial.name


def read(root: Path, trial: Trial) -> Seen:
    """Read a trial that no process works on.

    Raises SettingError where another run lies in its place.
    """
    return _seen(trial, standing_of(place_of(root, trial), trial.config))


def read_running(root: Path, trial: Trial) -> Seen:
    """Read a trial whose process may be about to replace any of its files."""
    try:
        metrics = read_metrics(RunPaths(place_of(root, trial)).metrics)
    except FileNotFoundError:
        metrics = Metrics((), 0)
    return _seen(trial, Standing("begun", metrics))


def _seen(trial: Trial, standing: Standing) -> Seen:
    metrics = standing.metrics
    curve = [(int(record["step"]), record["loss"]) for record in metrics.of("eval")]
    judgement = judge(curve, trial.steps)
    if judgement.word == "undecided" and standing.state == "diverged":
        judgement = Judgement("not calm", f"step {metrics.records[-1]['step']} is not finite")
    return Seen(trial, judgement, metrics)


def drop_checkpoints(root: Path, trial: Trial) -> None:
    """Delete the checkpoints of a trial that nobody will go on with."""
    checkpoints = RunPaths(place_of(root, trial)).checkpoints
    if checkpoints.exists():
        Disk().remove(checkpoints)

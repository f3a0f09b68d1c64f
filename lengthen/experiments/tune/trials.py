"""A trial: the beginning of a training with one setting, an ordinary run in a directory of its own.

    DIR/trials/start-8-T-80-1f0c55aa/        the run; the digits are those of its configuration

So a trial is never done twice: whoever asks for the same configuration, with the same versions of
what computes it, finds it there, and another configuration lies beside it.

The paper asks for no *significant fluctuation* of the validation perplexity at the very beginning.
What is significant is recalled, and not seen in a source: above 1.3 times the lowest so far.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Literal

from lengthen.checkpoint.verify import list_checkpoints
from lengthen.config.model import Model
from lengthen.config.schema import Config
from lengthen.experiments.runner import Job
from lengthen.experiments.status import RunStatus, run_status
from lengthen.experiments.tune.problem import Problem
from lengthen.experiments.tune.search import Setting
from lengthen.model import cost
from lengthen.run.directory import RunPaths
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.util.disk import Disk

TRIALS = "trials"  # in a tuner's directory
DIGITS = 8  # of a configuration's hash, in its trial's name
VERSIONS = ("lengthen", "torch")  # another one computes another trial
RISE = 1.3  # perplexity / lowest so far; above it the fluctuation is significant (paper, recalled)
LAST_EVALUATIONS = 3  # whose mean is the loss at the end (ours)
FORWARD = 3  # an evaluation is a forward pass: a third of a training step's arithmetic

Curve = Sequence[tuple[int, float | None]]  # (finished steps, nats per token or None)


@dataclass(frozen=True)
class Stability:
    """What the validation losses of a trial say, and why."""

    verdict: Literal["calm", "not calm", "undecided"]
    why: str
    rise: str = "-"  # the largest one, for a table


def judge(curve: Curve, last: int) -> Stability:
    """Judge the validation losses of a trial of `last` steps, in their order.

    Not calm, for certain and for good, at the first evaluation with

        loss > best + ln 1.3,    best = the lowest loss before it,

    or at the first that is not finite (None counts as such). Calm once step `last` is evaluated
    without one; undecided until then.
    """
    best = rise = -math.inf
    for step, loss in curve:
        if loss is None or not math.isfinite(loss):
            return Stability("not calm", f"not finite at step {step}", "not finite")
        best = loss if best == -math.inf else best
        rise = max(rise, loss - best)
        if loss - best > math.log(RISE):
            height = _times(loss - best)
            return Stability("not calm", f"{height} the lowest so far at step {step}", height)
        best = min(best, loss)
        if step >= last:
            height = _times(rise)
            return Stability("calm", f"never above {height} the lowest so far", height)
    at, height = (curve[-1][0], _times(rise)) if curve else (0, "-")
    return Stability("undecided", f"step {at} of {last}", height)


def _times(nats: float) -> str:
    # Of a loss that is out of proportion the factor would be a number of many digits.
    return f"{math.exp(nats):.3g} x" if nats < 20 else f"e^{nats:.0f} x"


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
        return f"{self.label.replace(',', '').replace(' ', '-')}-{_digest(self.config)}"

    def directory(self, root: Path) -> Path:
        """Return where it lies in the tuner's directory `root`."""
        return root / TRIALS / self.name

    def job(self, root: Path) -> Job:
        """Return what carries it out."""
        return Job(self.name, self.label, self.directory(root), self.config)


def trial_of(problem: Problem, setting: Setting) -> Trial:
    """Return the trial of a setting."""
    label = f"start {setting.start}, T {setting.multiple * problem.warmup}"
    label += f", rate x{setting.rate}" if setting.rate > 1 else ""
    label += f", rows x{setting.rows}" if setting.rows > 1 else ""
    label += ", beginning" if setting.opening else ""
    label += ", race" if setting.raced else ""
    return Trial(setting, problem.trial_config(setting), problem.steps(setting), label)


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


@dataclass(frozen=True)
class TrialResult:
    """What a trial has shown so far."""

    trial: Trial
    stability: Stability
    metrics: Metrics

    @property
    def is_decided(self) -> bool:
        """Whether no further step can change the verdict."""
        return self.stability.verdict != "undecided"

    @property
    def is_calm(self) -> bool:
        """Whether it came to its end without a significant fluctuation."""
        return self.stability.verdict == "calm"

    @property
    def loss(self) -> float:
        """Nats at its end, over its last evaluations, since one alone jumps; inf: not calm."""
        if not self.is_calm:
            return math.inf
        last = self.metrics.evaluations[-LAST_EVALUATIONS:]
        return fmean(math.inf if one.loss is None else one.loss for one in last)

    @property
    def work(self) -> Work:
        """What it has computed."""
        config, steps, evaluations = self.trial.config, self.metrics.steps, self.metrics.evaluations
        shapes = [(step.rows or 0, step.length or 0) for step in steps]
        judged = sum(one.side_tokens or 0 for one in evaluations)
        flops = sum(step_flops(config, rows, length) for rows, length in shapes)
        training = (steps[-1].seconds or 0.0) if steps else 0.0
        return Work(
            tokens=sum(rows * length for rows, length in shapes),
            judged=judged,
            flops=flops + evaluation_flops(config.model, judged),
            seconds=training + sum(one.side_seconds or 0.0 for one in evaluations),
        )


def losses_of(results: Iterable[TrialResult]) -> dict[Setting, float]:
    """Return the losses of the trials that have a verdict (search.Losses)."""
    return {one.trial.setting: one.loss for one in results if one.is_decided}


def read_trial(root: Path, trial: Trial) -> TrialResult:
    """Read a trial that no process works on.

    Raises SettingError where another run lies in its place.
    """
    return _result(trial, run_status(trial.directory(root), trial.config))


def read_running(root: Path, trial: Trial) -> TrialResult:
    """Read a trial whose process may be about to replace any of its files."""
    log = RunPaths(trial.directory(root)).metrics
    metrics = read_metrics(log) if log.is_file() else Metrics((), 0)
    return _result(trial, RunStatus("begun", metrics))


def _result(trial: Trial, status: RunStatus) -> TrialResult:
    metrics = status.metrics
    curve = [(one.step, one.loss) for one in metrics.evaluations]
    stability = judge(curve, trial.steps)
    if stability.verdict == "undecided" and status.state == "diverged":
        why = f"step {metrics.records[-1].step} is not finite"
        stability = Stability("not calm", why, "not finite")
    return TrialResult(trial, stability, metrics)


def repeated_tokens(root: Path, trial: Trial) -> int:
    """Return the tokens that a trial which resumes now trains again: after its last checkpoint."""
    checkpoints = list_checkpoints(RunPaths(trial.directory(root)).checkpoints)
    kept = int(checkpoints[0].name.removeprefix("step-")) if checkpoints else 0
    steps = read_running(root, trial).metrics.steps
    return sum((step.rows or 0) * (step.length or 0) for step in steps if step.step > kept)


def drop_checkpoints(root: Path, trial: Trial) -> None:
    """Delete the checkpoints of a trial that nobody will resume."""
    checkpoints = RunPaths(trial.directory(root)).checkpoints
    if checkpoints.exists():
        Disk().remove(checkpoints)

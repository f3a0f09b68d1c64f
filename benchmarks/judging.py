"""How many validation tokens tell two early perplexities apart that differ by 1 %?

    python -m benchmarks.judging

The models of two trials are evaluated on the same tokens, so what counts is how much their losses
differ from token to token. With a standard deviation d of that difference, in nats, the mean over n
tokens is known to d / sqrt(n). Trains `laptop-2min` twice for three warm-ups on Python's library.
"""

import math
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.measure import report
from lengthen.config.load import load
from lengthen.config.schema import Config
from lengthen.data.open_store import open_store, with_store
from lengthen.distributed.context import DistributedContext
from lengthen.experiments.demo import library_text, prepare_store
from lengthen.training.trainer import Trainer

TOKENS = 16_384  # of the validation part
STEPS = (20, 40, 60)  # one, two and three warm-ups


def token_losses(trainer: Trainer) -> torch.Tensor:
    """Return the loss of every validation token, in nats: (TOKENS,) float64."""
    length, model = trainer.config.model.length, trainer.model
    tokens = torch.from_numpy(trainer.store.valid[: TOKENS + 1].astype("int64"))
    losses = []
    with torch.no_grad():
        for first in range(0, TOKENS, length):
            row = tokens[None, first : first + length + 1]
            logits = model.logits(row[:, :-1])
            losses.append(functional.cross_entropy(logits[0], row[0, 1:], reduction="none"))
    return torch.cat(losses).double()


def trial(config: Config) -> list[torch.Tensor]:
    """Train one trial; return its token losses at each of STEPS."""
    trainer = Trainer(config, open_store(config), DistributedContext(torch.device("cpu")), 4096)
    found = []
    for step in range(1, STEPS[-1] + 1):
        trainer.step()
        if step in STEPS:
            found.append(token_losses(trainer))
    return found


def main() -> None:
    """Print the paired standard deviations, and the tokens that follow from the largest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_store(library_text(folder / "library.jsonl"), folder / "store", overwrite=True)
        trials = []
        for start in (8, 16):
            changes = {"start": start, "duration": 80}
            data = {"path": str(folder / "store")}
            config, _ = load("laptop-2min", {"pacing": changes, "data": data})
            trials.append(trial(with_store(config, open_store(config))))
    single = float(trials[0][-1].std())
    print(f"one model, its last step    mean {trials[0][-1].mean():.3f}   sd {single:.3f} nats")
    paired = []
    for step, (one, other) in zip(STEPS, zip(*trials, strict=True), strict=True):
        paired.append(float((one - other).std()))
        gap = float((one - other).mean())
        print(f"start 8 - 16 at step {step:<6} mean {gap:+.3f}  sd {paired[-1]:.3f} nats")
    for (before, one), (after, other) in pairwise(zip(STEPS, trials[0], strict=True)):
        change, spread = float((other - one).mean()), float((other - one).std())
        print(f"steps {before} to {after}, one trial  mean {change:+.3f}  sd {spread:.3f} nats")
    needed = math.ceil((2 * max(paired) / math.log(1.01)) ** 2)
    report("JUDGE_TOKENS_FOR_1_PERCENT", needed)


if __name__ == "__main__":
    main()

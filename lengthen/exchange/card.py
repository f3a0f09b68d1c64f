"""The model card of an export: how the model was trained, and what is not decided yet."""

import json
import re
from collections.abc import Iterator, Sequence

import tomli_w

from lengthen.checkpoint.read import Checkpoint
from lengthen.config.load import as_trained, build, recorded
from lengthen.config.schema import Config, Model
from lengthen.data.store import read_limited
from lengthen.model import cost
from lengthen.run.directory import Record, RunPaths, read_metrics
from lengthen.util.errors import DataError

ENVIRONMENT_LIMIT = 2**20  # bytes

TEXT = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
- lengthen
---

# {name}

A GPT-2 of {parameters:,} parameters, trained with lengthen, which can begin with short sequences
and lengthen them ([arXiv:2108.06084](https://arxiv.org/abs/2108.06084)); the pacing below says
whether this one did.

## Training

| | |
|---|---|
{facts}

## Settings

```toml
{settings}```

## Licence

None is given here. Whoever publishes this model adds one, and says what text it was trained on.
"""


def card(paths: RunPaths, config: Config, saved: Checkpoint, shape: Model) -> str:
    """Return the README.md for a checkpoint of a run whose exported model has `shape`.

    The settings are those that the checkpoint was trained with; `config` where it has none. It
    names no path: where somebody's store lies is nobody else's business. Raises SettingError.
    """
    if recorded(saved.state):
        config = build(recorded(saved.state))
    tables = as_trained(config)
    if not saved.step:  # imported and not trained on: the others have had no effect
        tables = {"model": tables["model"]}
    return TEXT.format(
        name=_cell(paths.root.resolve().name),
        parameters=cost.parameters(shape),
        facts="\n".join(
            f"| {name} | {_cell(value)} |" for name, value in _facts(paths, config, saved)
        ),
        settings=tomli_w.dumps(tables),
    )


def _facts(paths: RunPaths, config: Config, saved: Checkpoint) -> Iterator[tuple[str, str]]:
    records = read_metrics(paths.metrics).records if paths.metrics.is_file() else ()
    for record in records:
        if record.get("event") == "imported":
            yield "began with the weights of", str(record.get("source"))
    yield "steps", f"{saved.step:,}"
    yield "trained tokens", _tokens(saved)
    yield "final validation loss", _validation_loss(records, saved.step)
    yield "full length", f"{config.model.length} tokens"
    if saved.step:
        pacing = config.tables()["pacing"]
        yield "pacing of", pacing.pop("of")
        yield "pacing", ", ".join(f"{name} {value}" for name, value in pacing.items())
        yield "rows at full length", f"{config.batch.rows:,}"
        yield "peak learning rate", f"{config.optimizer.learning_rate}"
        yield "precision", config.run.precision
    yield "versions", _versions(paths)


def _tokens(saved: Checkpoint) -> str:
    try:
        return f"{int(saved.state['counters']['tokens']):,}"
    except (ValueError, LookupError, TypeError, OverflowError):
        return "not recorded"


def _validation_loss(records: Sequence[Record], step: int) -> str:
    steps = {record.get("step"): record for record in records if record["kind"] == "eval"}
    reached = [number for number in steps if isinstance(number, int) and number <= step]
    if not reached:
        return "not measured"
    loss = steps[max(reached)].get("loss")
    found = f"{loss:.4f} nats per token" if isinstance(loss, float) else "not finite"
    return f"{found}, at full length, after step {max(reached):,}"


def _versions(paths: RunPaths) -> str:
    try:
        packages = json.loads(read_limited(paths.environment, ENVIRONMENT_LIMIT))["packages"]
        return ", ".join(f"{name} {number}" for name, number in packages.items())
    except (DataError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "not recorded"  # a model without them is still worth its card


def _cell(text: str) -> str:
    """Return text that can neither leave its line nor its cell, nor be markup."""
    return re.sub(r"[^\w .,:+/()-]", "?", text)

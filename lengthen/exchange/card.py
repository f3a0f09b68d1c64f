"""The model card of an export: how the model was trained, and what its publisher must add."""

import re
from collections.abc import Iterator

import tomli_w

from lengthen.checkpoint.read import Checkpoint
from lengthen.config.load import as_trained, build_recorded, recorded
from lengthen.config.model import Model
from lengthen.config.schema import Config
from lengthen.exchange.architectures import architecture_of
from lengthen.model import cost
from lengthen.run.directory import RunPaths
from lengthen.run.environment import read_environment
from lengthen.run.metrics import Metrics, read_metrics
from lengthen.util.errors import DataError

TEXT = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- {kind}
- lengthen
---

# {name}

A {architecture} of {parameters:,} parameters, trained with lengthen, which can begin with short
sequences and lengthen them ([arXiv:2108.06084](https://arxiv.org/abs/2108.06084)); the pacing below
says whether this one did.

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

    The settings are those that the checkpoint was trained with, or `config` where it has none. No
    path is in it, since it will be published. Raises SettingError.
    """
    if settings := recorded(saved.state):
        config = build_recorded(settings)
    tables = as_trained(config)
    if not saved.step:  # imported and not trained: the other settings had no effect
        tables = {"model": tables["model"]}
    facts = (f"| {name} | {_cell(value)} |" for name, value in _facts(paths, config, saved))
    architecture = architecture_of(shape)
    return TEXT.format(
        kind=architecture.kind,
        architecture=architecture.name,
        name=_cell(paths.root.resolve().name),
        parameters=cost.parameters(shape),
        facts="\n".join(facts),
        settings=tomli_w.dumps(tables),
    )


def _facts(paths: RunPaths, config: Config, saved: Checkpoint) -> Iterator[tuple[str, str]]:
    metrics = read_metrics(paths.metrics) if paths.metrics.is_file() else Metrics((), 0)
    for event in metrics.events:
        if event.name == "imported":
            yield "began with the weights of", str(event.facts.get("source"))
    yield "steps", f"{saved.step:,}"
    yield "trained tokens", _tokens(saved)
    yield "final validation loss", _validation_loss(metrics, saved.step)
    yield "full length", f"{config.model.length} tokens"
    if saved.step:
        pacing = config.tables()["pacing"]
        yield "pacing of", pacing.pop("of")
        yield "pacing", ", ".join(f"{name} {_plain(value)}" for name, value in pacing.items())
        yield "rows at full length", f"{config.batch.rows:,}"
        yield "peak learning rate", f"{config.optimizer.learning_rate}"
        yield "precision", config.run.precision
    yield "versions", _versions(paths)


def _tokens(saved: Checkpoint) -> str:
    try:
        return f"{int(saved.state['counters']['tokens']):,}"
    except (ValueError, LookupError, TypeError, OverflowError):
        return "not recorded"


def _validation_loss(metrics: Metrics, step: int) -> str:
    reached = [record for record in metrics.evaluations if record.step <= step]
    if not reached:
        return "not measured"
    last = reached[-1]
    loss = "not finite" if last.loss is None else f"{last.loss:.4f} nats per token"
    return f"{loss}, at full length, after step {last.step:,}"


def _versions(paths: RunPaths) -> str:
    try:
        packages = read_environment(paths.environment)["packages"]
        return ", ".join(f"{name} {number}" for name, number in packages.items())
    except (DataError, LookupError, AttributeError):
        return "not recorded"  # a model without them still gets its card


def _plain(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list | tuple) else str(value)


def _cell(text: str) -> str:
    """Return text that neither leaves its line or cell nor is markup."""
    return re.sub(r"[^\w .,:+/()-]", "?", text)

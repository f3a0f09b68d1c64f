"""Final losses, side by side: nats per token, perplexity, and bits per byte of text."""

import math
from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import TypeGuard

from lengthen.analysis.summary import why_diverged
from lengthen.core.loss_ratio import perplexity
from lengthen.reporting.gather import NamedRun
from lengthen.util.stats import interval
from lengthen.util.tables import Table, between

TOKENS, BYTES = "valid_tokens", "valid_bytes"  # of environment.json
COLUMNS = ("run", "final loss", "perplexity", "bits per byte", "tokens", "seeds", "95 % interval")
UNRECORDED = "not recorded"
NOTE = "Validation loss in nats per token at full length, at the last evaluation"
OF_BYTES = "; bits per byte by the tokens and bytes of the whole validation part."
NO_BYTES = "; no bits per byte, since no run has a record of the bytes of its validation part."
UNLIKE = " Tokenizers differ: only bits per byte compare."
OTHER_TEXT = " Validation parts differ in bytes: no figure here compares."


def final_losses(runs: Sequence[NamedRun], families: Mapping[str, str] | None = None) -> Table:
    """Return the last validation loss of each run, of a family of several the mean over them.

    `families` maps a run's name to its family; a run that is not in it is its own.
    """
    members: dict[str, list[NamedRun]] = {}
    for run in runs:
        members.setdefault((families or {}).get(run.name, run.name), []).append(run)
    columns = dict(zip(COLUMNS, zip(*starmap(_row, members.items()), strict=True), strict=True))
    if len(members) == len(runs):
        del columns["seeds"], columns["95 % interval"]
    note = NOTE + (", mean over seeds" if len(members) < len(runs) else "") + OF_BYTES
    if set(columns["bits per byte"]) == {UNRECORDED}:
        del columns["bits per byte"]
        note = note.replace(OF_BYTES, NO_BYTES)
    for name, text in (("tokenizer", UNLIKE), (BYTES, OTHER_TEXT)):
        if len({str(known) for run in runs if (known := run.environment.get(name))}) > 1:
            note += text
    return Table("Final losses", tuple(columns), tuple(zip(*columns.values(), strict=True)), note)


def _row(name: str, members: Sequence[NamedRun]) -> tuple[str, ...]:
    evaluated = [run.metrics for run in members if run.metrics.evaluations]
    ends = [metrics.evaluations[-1] for metrics in evaluated if not why_diverged(metrics)]
    losses = [end.loss for end in ends if end.loss is not None]
    seeds = f"{len(losses)} of {len(members)}" if len(losses) < len(members) else str(len(losses))
    if not losses:
        lost = any(why_diverged(run.metrics) for run in members)
        return (name, "diverged" if lost else "not evaluated", *"---", seeds, "-")
    counts = sorted({end.tokens for end in ends if end.tokens is not None})
    mean = interval(losses)
    return (
        name,
        f"{mean.mean:.3f}",
        f"{perplexity(mean.mean):,.1f}",
        _bits(members, mean.mean),
        " to ".join(dict.fromkeys(f"{count:,}" for count in counts[:1] + counts[-1:])) or "-",
        seeds,
        between(mean.low, mean.high, least=0),
    )


def _bits(members: Sequence[NamedRun], loss: float) -> str:
    """Return loss * tokens / (bytes * ln 2), of the validation part that all members read."""
    first, *others = ([run.environment.get(name) for name in (TOKENS, BYTES)] for run in members)
    tokens, size = first
    if any(other != first for other in others) or not (_is_count(tokens) and _is_count(size)):
        return UNRECORDED
    return f"{loss * tokens / (size * math.log(2)):.3f}"


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 < value < 2**63

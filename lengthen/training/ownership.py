"""One owner for a run's directory, and ranks that are about to do the same."""

import json
from contextlib import ExitStack
from pathlib import Path

from lengthen.config.load import as_trained, flat
from lengthen.config.schema import Config, Tables
from lengthen.distributed.context import DistributedContext
from lengthen.run.directory import mark_in, owned
from lengthen.util.errors import SettingError


def own_directory(
    stack: ExitStack, out: Path, context: DistributedContext, verb: str, config: Config
) -> None:
    """Own the run's directory on rank 0, and see that all ranks are about to do the same in it.

    `verb` is what this rank is about to do. Raises BusyError for a directory that is in use, and
    SettingError where another rank means another directory or another run.
    """
    context.barrier()  # every rank has looked at the directory before rank 0 writes
    mark = context.broadcast(stack.enter_context(owned(out)) if context.is_rank_zero else 0)
    is_same = context.all_gather([int(mark_in(out) == mark)])
    others = [rank for rank, (same,) in enumerate(is_same) if not same]
    if others:
        rule = f"must be one directory for all ranks; rank {others[0]} sees another than rank 0"
        raise SettingError("RUN", rule, str(out), "put it on a disk that all of them share")
    _must_agree(context, verb, config)


def _must_agree(context: DistributedContext, verb: str, config: Config) -> None:
    """Raise SettingError on every rank where one is about to do something else than the first."""
    plans = [
        json.loads(text) for text in context.all_gather_text(json.dumps([verb, _agreed(config)]))
    ]
    (first_verb, first), *others = plans
    for rank, (other_verb, other) in enumerate(others, start=1):
        if other_verb != first_verb:
            rule = f"rank 0 is to {first_verb}, rank {rank} to {other_verb}: a shared disk is late"
            raise SettingError("RUN", rule, hint="run the command again")
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                rule = f"must be the same on all ranks; rank 0 has {first.get(name)!r}"
                raise SettingError(name, f"{rule}, rank {rank} {other.get(name)!r}")


def _agreed(config: Config) -> Tables:
    """Return the settings in which ranks have to agree: all, but where their store lies."""
    return flat(as_trained(config))

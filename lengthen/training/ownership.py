"""One owner for a run's directory, and ranks that are about to do the same in it."""

import json
from contextlib import ExitStack
from pathlib import Path

from lengthen.config.load import as_trained, flat
from lengthen.config.schema import Config
from lengthen.distributed.context import DistributedContext
from lengthen.run.directory import mark_in, owned
from lengthen.util.errors import SettingError


def own_directory(
    stack: ExitStack, out: Path, context: DistributedContext, what: str, config: Config
) -> None:
    """Own the run's directory, on rank 0, and check that all ranks see it and do the same.

    Messages name `what` this rank is about to do. Raises BusyError and SettingError.
    """
    context.barrier()  # no rank reads the directory any more once rank 0 writes
    mark = context.broadcast(stack.enter_context(owned(out)) if context.is_rank_zero else 0)
    same = context.all_gather([int(mark_in(out) == mark)])
    if [0] in same:
        rule = (
            f"must be one directory for all ranks; rank {same.index([0])} sees another than rank 0"
        )
        raise SettingError("RUN", rule, str(out), "put it on a disk that all of them share")
    # All settings, but where the store lies.
    plan = json.dumps([what, flat(as_trained(config))])
    (what_of_first, first), *others = map(json.loads, context.all_gather_text(plan))
    for rank, (other_what, other) in enumerate(others, start=1):
        if other_what != what_of_first:
            rule = (
                f"rank 0 is to {what_of_first}, rank {rank} to {other_what}: a shared disk is late"
            )
            raise SettingError("RUN", rule, hint="run the command again")
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                rule = f"must be the same on all ranks; rank 0 has {first.get(name)!r}"
                raise SettingError(name, f"{rule}, rank {rank} {other.get(name)!r}")

"""The checkpoints of a running training: written on the spot, or from a copy in the background.

In the background one checkpoint is written at a time; the next one waits for it. The copy is taken
between two steps, because weights and moments change in place.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from lengthen.checkpoint.read import State, Tensors
from lengthen.checkpoint.verify import name_of
from lengthen.checkpoint.write import BeforeWrite, delete_old, write_checkpoint
from lengthen.distributed.context import DistributedContext
from lengthen.util.disk import Disk


class CheckpointManager:
    """Writes the checkpoints of one run and deletes old ones; `checkpoint_manager` makes one."""

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        keep: int,
        context: DistributedContext,
        pool: ThreadPoolExecutor | None,
        good: int | None,
    ) -> None:
        self.disk = disk
        self.step = good  # of the last checkpoint that is known to be good
        self.in_background = pool is not None
        self._folder, self._keep, self._context, self._pool = folder, keep, context, pool
        self._verified = set() if good is None else {name_of(good)}
        self._copy: dict[str, dict[str, Tensor]] = {}
        self._pending: tuple[int, Future[Path]] | None = None

    @property
    def last_name(self) -> str:
        """The name of the last checkpoint, for a message."""
        return "none" if self.step is None else name_of(self.step)

    def write(
        self,
        step: int,
        tensors: Mapping[str, Tensors],
        state: State,
        before: BeforeWrite | None = None,
    ) -> str:
        """Save on the spot, on rank 0 after `before`; return the name.

        Raises StorageError, on every rank alike.
        """
        path = write_checkpoint(
            self.disk, self._folder, step, tensors, state, self._context, before
        )
        return self._written(step, path)

    def write_in_background(
        self,
        step: int,
        tensors: Mapping[str, Tensors],
        state: State,
        before: BeforeWrite | None = None,
    ) -> None:
        """Copy what is to be saved, and save the copy while the caller trains on."""
        assert self._pool is not None
        assert self._pending is None
        self._take_copy(tensors)
        context = self._context.for_background()
        arguments = (self.disk, self._folder, step, self._copy, state, context, before)
        self._pending = step, self._pool.submit(write_checkpoint, *arguments)

    def finish(self, *, wait: bool) -> str | None:
        """Return the name of the checkpoint that the background has written; raises StorageError.

        None where there is none, or, without `wait`, where it is not written yet.
        """
        if self._pending is None or not (wait or self._pending[1].done()):
            return None
        (step, future), self._pending = self._pending, None
        return self._written(step, future.result())

    def delete_old(self) -> None:
        """Delete what is older than the newest good ones; call it only after a good save."""
        delete_old(self.disk, self._folder, self._keep, self._verified)

    def _written(self, step: int, path: Path) -> str:
        self.step = step
        self._verified.add(path.name)
        return path.name

    def _take_copy(self, tensors: Mapping[str, Tensors]) -> None:
        """Copy into the memory of the last copy: new memory takes longer than the copying."""
        for group, originals in tensors.items():
            copies = self._copy.setdefault(group, {})
            for name, tensor in originals.items():
                if name not in copies:
                    copies[name] = torch.empty_like(tensor, device="cpu")
                copies[name].copy_(tensor)


@contextmanager
def checkpoint_manager(
    disk: Disk,
    folder: Path,
    keep: int,
    context: DistributedContext,
    *,
    asynchronous: bool,
    good: int | None = None,
) -> Iterator[CheckpointManager]:
    """Give the manager of a run that keeps `keep` checkpoints and resumed from that of step `good`.

    At the end of the block it waits for what is still being written.
    """
    with ThreadPoolExecutor(1, "save") as pool:
        used = pool if asynchronous else None
        yield CheckpointManager(disk, folder, keep, context, used, good)

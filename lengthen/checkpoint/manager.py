"""The checkpoints of a running training: written on the spot, or from a copy in the background."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from lengthen.checkpoint.read import State, Tensors
from lengthen.checkpoint.verify import name_of
from lengthen.checkpoint.write import BeforeWrite, delete_old, write_checkpoint
from lengthen.distributed.context import DistributedContext
from lengthen.util.disk import Disk


class CheckpointManager:
    """Writes the checkpoints of one run and deletes old ones but the newest `keep`.

    A resumed run gives the step of the `good` checkpoint that it resumed from. `close` it.
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        keep: int,
        context: DistributedContext,
        *,
        asynchronous: bool,
        good: int | None = None,
    ) -> None:
        self.disk = disk
        self.step = good  # of the last checkpoint that is known to be good
        self._folder, self._keep, self._context = folder, keep, context
        self._asynchronous, self._pool = asynchronous, ThreadPoolExecutor(1, "save")
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
        *,
        wait: bool = True,
    ) -> str | None:
        """Save, on rank 0 after `before`; return the name, or None where it is not written yet.

        Without `wait` an asynchronous manager saves a copy while the caller trains on; `finish`
        tells what became of it. Raises StorageError, on every rank alike.
        """
        if wait or not self._asynchronous:
            path = write_checkpoint(
                self.disk, self._folder, step, tensors, state, self._context, before
            )
            return self._written(step, path)
        assert self._pending is None
        self._take_copy(tensors)
        context = self._context.for_background()
        arguments = (self.disk, self._folder, step, self._copy, state, context, before)
        self._pending = step, self._pool.submit(write_checkpoint, *arguments)
        return None

    def finish(self, *, wait: bool) -> str | None:
        """Return the name of the checkpoint that the background has written; raises StorageError.

        None where there is none, or, without `wait`, where it is not written yet.
        """
        if self._pending is None or not (wait or self._pending[1].done()):
            return None
        (step, future), self._pending = self._pending, None
        return self._written(step, future.result())

    def close(self) -> None:
        """Wait for what is still being written."""
        self._pool.shutdown()

    def delete_old(self) -> None:
        """Delete what is older than the newest good ones; call it only after a good save."""
        delete_old(self.disk, self._folder, self._keep, self._verified)

    def _written(self, step: int, path: Path) -> str:
        self.step = step
        self._verified.add(path.name)
        return path.name

    def _take_copy(self, tensors: Mapping[str, Tensors]) -> None:
        """Copy what training changes in place; new memory would take longer than the copying."""
        for group, originals in tensors.items():
            copies = self._copy.setdefault(group, {})
            for name, tensor in originals.items():
                if name not in copies:
                    copies[name] = torch.empty_like(tensor, device="cpu")
                copies[name].copy_(tensor)

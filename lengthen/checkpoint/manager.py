"""A run's checkpoints as it goes: written on the spot, or from a copy while training goes on.

In the background at most one is on its way; the next one waits for it. The copy is taken at a step
boundary, for weights and moments change in place.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lengthen.checkpoint import write as commit
from lengthen.checkpoint.read import State, Tensors
from lengthen.checkpoint.write import Ahead, nothing
from lengthen.distributed.context import DistributedContext
from lengthen.util.disk import Disk


@dataclass
class CheckpointManager:
    """What has been saved of one run, and what is on its way."""

    disk: Disk
    folder: Path
    keep: int  # newest ones
    context: DistributedContext
    pool: ThreadPoolExecutor | None  # None: every save is on the spot
    step: int | None = None  # of the last checkpoint that is true
    verified: set[str] = field(default_factory=set)  # names that this process knows are good
    _copy: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _coming: tuple[int, Future[Path]] | None = None

    def write(
        self, step: int, tensors: Mapping[str, Tensors], state: State, ahead: Ahead = nothing
    ) -> str:
        """Save on the spot; return the name. Raises StorageError, on every rank alike."""
        return self._true(step, self._save(step, tensors, state, self.context, ahead))

    def begin(
        self, step: int, tensors: Mapping[str, Tensors], state: State, ahead: Ahead = nothing
    ) -> None:
        """Copy what is to be saved, and save the copy while the caller goes on."""
        assert self.pool is not None
        assert self._coming is None
        self._take_copy(tensors)
        apart = self.context.for_background()
        self._coming = step, self.pool.submit(self._save, step, self._copy, state, apart, ahead)

    def settle(self, *, wait: bool) -> str | None:
        """Return the name of the checkpoint that has come true since; raises its StorageError.

        Without `wait` a save that is not done yet is left alone.
        """
        if self._coming is None or not (wait or self._coming[1].done()):
            return None
        (step, coming), self._coming = self._coming, None
        return self._true(step, coming.result())

    def rotate(self) -> None:
        """Delete what is older than the newest good ones; call it only after a good save."""
        commit.rotate(self.disk, self.folder, self.keep, self.verified)

    def _save(
        self,
        step: int,
        tensors: Mapping[str, Tensors],
        state: State,
        context: DistributedContext,
        ahead: Ahead,
    ) -> Path:
        return commit.save(self.disk, self.folder, step, tensors, state, context, ahead)

    def _true(self, step: int, path: Path) -> str:
        self.step = step
        self.verified.add(path.name)
        return path.name

    def _take_copy(self, tensors: Mapping[str, Tensors]) -> None:
        """Copy into the memory of the last copy: new memory takes longer than the copying."""
        for group, held in tensors.items():
            copies = self._copy.setdefault(group, {})
            for name, tensor in held.items():
                if name not in copies:
                    copies[name] = torch.empty_like(tensor, device="cpu")
                copies[name].copy_(tensor)


@contextmanager
def checkpoint_manager(
    disk: Disk, folder: Path, keep: int, context: DistributedContext, *, asynchronous: bool
) -> Iterator[CheckpointManager]:
    """Give the saves of a run; on the way out wait for what is still being written."""
    if not asynchronous:
        yield CheckpointManager(disk, folder, keep, context, None)
        return
    with ThreadPoolExecutor(1, "save") as pool:
        yield CheckpointManager(disk, folder, keep, context, pool)

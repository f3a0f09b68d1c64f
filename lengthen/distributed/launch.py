"""Join the ranks that a launcher such as torchrun started, and tell when one of them is lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from lengthen.config.schema import Run
from lengthen.distributed.context import DistributedContext
from lengthen.distributed.device import check_supports, device_of, launcher_variable
from lengthen.distributed.memory import free_large_blocks_at_once
from lengthen.util.errors import PeerError, SettingError, one_line

TIMED_OUT = "Timed out waiting"
PEER_LOST = ("Connection closed by peer", "Connection reset by peer", TIMED_OUT)
# Groups that this process has left. They are destroyed at its end: torch 2.13 joins gloo's threads
# while it holds the interpreter's lock, for which one of them may still be waiting.
_left_groups: list[object] = []


@contextmanager
def join_process_group(run: Run) -> Iterator[DistributedContext]:
    """Join the ranks that the launcher started, if any, and leave them again at the end.

    Raises SettingError where the device cannot do what `run` asks for, PeerError for a lost rank.
    """
    device = device_of(run.device)
    check_supports(device, run)
    if run.recompute and device.type == "cpu":
        free_large_blocks_at_once()
    world_size = launcher_variable("WORLD_SIZE", 1)
    if world_size == 1:
        yield DistributedContext(device, run.precision)
        return
    rank, timeout = launcher_variable("RANK"), timedelta(seconds=run.timeout_seconds)
    try:
        with _process_group(device, rank, world_size, timeout) as background:
            yield DistributedContext(
                device, run.precision, rank, world_size, run.sharded, background_group=background
            )
    except RuntimeError as error:
        if not is_peer_lost(error):
            raise
        way_out = "its own message says why, if it could print one; run the command again"
        raise PeerError(f"rank {rank} lost another rank, or never met it; {way_out}") from error


@contextmanager
def _process_group(
    device: torch.device, rank: int, world_size: int, timeout: timedelta
) -> Iterator[dist.ProcessGroup]:
    """Initialise torch's process group until the block ends; give a second one, for the CPU."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = _rendezvous_store(timeout)
    try:
        dist.init_process_group(
            backend, timeout=timeout, world_size=world_size, rank=rank, store=store
        )
        background = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        if "gloo" not in str(error).lower():
            raise
        cause = str(error).rpartition("] ")[2]  # before it comes where in torch's source
        way_out = "set GLOO_SOCKET_IFNAME to the interface between the machines"
        raise PeerError(f"rank {rank} cannot reach another rank ({cause}); {way_out}") from error
    try:
        yield background
    finally:
        _left_groups.extend((dist.group.WORLD, background))
        dist.destroy_process_group()


def _rendezvous_store(timeout: timedelta) -> Store:
    """Return the store in which ranks exchange addresses, a new one after each restart.

    After a restart torch 2.13's launcher gives the last attempt's store where it shares its own,
    old addresses included: a rank that reads one before its owner has written the new one waits for
    ever. A prefix keeps attempts apart there. A store that is not shared is new in each attempt,
    and a prefix would keep ranks apart: each launcher counts its own restarts.
    """
    try:
        store: Store = next(rendezvous("env://", timeout=timeout))[0]
    except ValueError as error:  # of the environment
        rule, hint = f"no launcher said all of it ({one_line(error)})", "start with torchrun"
        raise SettingError("WORLD_SIZE", rule, os.environ["WORLD_SIZE"], hint) from None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store
    return PrefixStore(f"attempt-{launcher_variable('TORCHELASTIC_RESTART_COUNT')}", store)


def is_peer_lost(error: RuntimeError) -> bool:
    """Return whether a collective failed because another rank is gone, or the network is."""
    return isinstance(error, dist.DistError) or any(text in str(error) for text in PEER_LOST)


def is_time_out(error: RuntimeError) -> bool:
    """Return whether a lost rank was only silent for too long."""
    return TIMED_OUT in str(error)

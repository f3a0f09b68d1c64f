"""Sharded tensors (DTensor): what this rank holds of one, and a whole one cut as another is.

Sharding cuts along the first dimension into equal runs of rows, the last ones shorter or empty.
"""

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether the ranks hold parts of the tensor, not all of it."""
    # Its module takes a second to import: before that, nobody has a sharded tensor.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_shard(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor: its shard, sharing its memory, or all of it."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def is_sharded_module(module: nn.Module) -> "TypeGuard[FSDPModule]":
    """Return whether the ranks hold parts of the module's parameters."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def unshard(module: nn.Module) -> None:
    """Bring the whole weights of a sharded module to this rank; its forward pass then has them."""
    if is_sharded_module(module):
        module.unshard()


def shard_like(whole: Tensor, other: Tensor) -> Tensor:
    """Return a copy of `whole` on the device of `other`, of its dtype, and cut as it is cut."""
    if not is_sharded(other):
        return whole.to(other.device, other.dtype, copy=True)
    mesh = other.device_mesh
    first = mesh.get_local_rank() * -(-len(whole) // mesh.size())
    mine = local_shard(other)
    rows = whole[first : first + len(mine)].to(mine.device, mine.dtype, copy=True)
    return type(other).from_local(
        rows, mesh, other.placements, run_check=False, shape=other.shape, stride=other.stride()
    )

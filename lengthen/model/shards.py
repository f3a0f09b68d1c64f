"""Sharded tensors (DTensor): what this rank holds of one, and a whole one cut as another is.

Sharding cuts along the first dimension into equal runs of rows, the last ones shorter or empty.
"""

from torch import Tensor
from torch.distributed.tensor import DTensor


def local_shard(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor: its shard, sharing its memory, or all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether the ranks hold parts of the tensor, not all of it."""
    return isinstance(tensor, DTensor)


def shard_like(whole: Tensor, other: Tensor) -> Tensor:
    """Return a copy of `whole` on the device of `other`, of its dtype, and cut as it is cut."""
    if not isinstance(other, DTensor):
        return whole.to(other.device, other.dtype, copy=True)
    mesh = other.device_mesh
    first = mesh.get_local_rank() * -(-len(whole) // mesh.size())
    mine = local_shard(other)
    rows = whole[first : first + len(mine)].to(mine.device, mine.dtype, copy=True)
    return DTensor.from_local(
        rows, mesh, other.placements, run_check=False, shape=other.shape, stride=other.stride()
    )

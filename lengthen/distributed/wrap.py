"""The model as the trainer calls it: compiled, replicated (DDP) or sharded (FSDP2)."""

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lengthen.distributed.context import DistributedContext
from lengthen.model.gpt import GPT
from lengthen.model.shards import is_sharded_module


def compile_blocks(model: GPT) -> None:
    """Compile each layer in place; one dynamic graph serves all layers, rows and lengths."""
    for block in model.blocks:
        block.compile(dynamic=True)


def wrap(model: GPT, context: DistributedContext) -> nn.Module:
    """Return the module whose forward pass trains on all ranks: the model itself or its DDP.

    Sharded, the model's parameters become DTensors in place, cut along their first dimension.
    """
    if not context.sharded:
        alone = context.world_size == 1
        return model if alone else DistributedDataParallel(model, gradient_as_bucket_view=True)
    # A second to import, which no run without shards waits for.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(context.device.type, (context.world_size,))
    for part in (*model.blocks, model):  # from the leaves up: what is left over is the root's
        fully_shard(part, mesh=mesh)
    return model


def no_sync_before(module: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Return the context of a micro-batch: ranks exchange gradients in the step's last one only."""
    if is_sharded_module(module):
        module.set_requires_gradient_sync(last)
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def reshard(module: nn.Module) -> None:
    """Free the whole weights that forward passes without a backward left on this rank."""
    if is_sharded_module(module):
        module.reshard()

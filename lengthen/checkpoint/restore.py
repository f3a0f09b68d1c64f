"""Weights and moments between a run's model and optimizer and its checkpoints."""

import torch
from torch import nn

from lengthen.checkpoint.read import Checkpoint, Tensors
from lengthen.checkpoint.train_state import OTHER_CHECKPOINT
from lengthen.config.schema import Config
from lengthen.core.shuffle import sub_seed
from lengthen.distributed.context import DistributedContext
from lengthen.model.gpt import GPT
from lengthen.model.optim import AdamW
from lengthen.model.shards import is_sharded, local_shard, shard_like
from lengthen.util.errors import CheckpointError, SettingError


def build_model(config: Config, context: DistributedContext) -> GPT:
    """Return the model of a configuration with its seeded initial weights, on its device."""
    # Whatever a host has as its defaults; and torch draws weights of its own, which are not ours.
    with torch.device("cpu"), torch.random.fork_rng([]):
        model = GPT(config.model, recompute=config.run.recompute).to(torch.float32)
    model.initialise(torch.Generator().manual_seed(sub_seed(config.run.seed, "weights")))
    return model.to(device=context.device, dtype=context.dtype)


def tensors_of(
    model: nn.Module, optimizer: AdamW, context: DistributedContext
) -> dict[str, Tensors]:
    """Return the weights and moments that this rank saves, by parameter name, without a copy.

    Of what is sharded every rank saves its own shard; of all else, such as Adam's count of steps,
    every rank has a copy, and rank 0 saves it.
    """
    named = dict(model.named_parameters())
    moments = {
        f"{name}.{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.owner(parameter).state.get(parameter, {}).items()
    }

    def saved(tensors: Tensors) -> Tensors:
        return {
            name: local_shard(tensor)
            for name, tensor in tensors.items()
            if context.is_rank_zero or is_sharded(tensor)
        }

    weights = {name: parameter.detach() for name, parameter in named.items()}
    return {"model": saved(weights), "optimizer": saved(moments)}


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights of a checkpoint in; raises SettingError for another architecture."""
    saved, own = checkpoint.tensors["model"], dict(model.named_parameters())
    for name in sorted(saved.keys() | own.keys()):
        shapes = [tuple(group[name].shape) if name in group else None for group in (saved, own)]
        if shapes[0] != shapes[1]:
            rule = f"{checkpoint.path.name} has {name} of shape {shapes[0]}, the model {shapes[1]}"
            raise SettingError("model", rule)
        with torch.no_grad():
            own[name].copy_(shard_like(saved[name], own[name]))


def load_moments(optimizer: AdamW, model: nn.Module, checkpoint: Checkpoint) -> int:
    """Give the optimizer the moments of a checkpoint, and return how many updates made them.

    Raises CheckpointError for other shapes.
    """
    saved = checkpoint.tensors.get("optimizer", {})
    # The fused update keeps its step count beside the weights, the plain one on the host.
    fused = bool(optimizer.defaults["fused"])
    for name, parameter in model.named_parameters():
        count = torch.empty((), device=parameter.device if fused else "cpu")
        targets = {"step": count, "exp_avg": parameter, "exp_avg_sq": parameter}
        if parameter in optimizer.muons:
            targets = {"momentum_buffer": parameter}
        state = {}
        for key, target in targets.items():
            moment = saved.get(f"{name}.{key}")
            if moment is None:
                continue
            if moment.shape != target.shape:
                shape = f"{name}.{key} of shape {tuple(moment.shape)}"
                raise CheckpointError(f"{checkpoint.path.name}: has {shape}; {OTHER_CHECKPOINT}")
            state[key] = shard_like(moment, target)
        if state:
            optimizer.owner(parameter).state[parameter] = state
    return int(next((state["step"] for state in optimizer.state.values() if "step" in state), 0))

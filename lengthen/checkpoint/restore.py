"""A configuration's model, and the weights and moments of a checkpoint in it."""

import torch
from torch import Tensor, nn

from lengthen.checkpoint.read import OTHER, Checkpoint
from lengthen.config.schema import Config
from lengthen.core.shuffle import sub_seed
from lengthen.distributed.context import DistributedContext
from lengthen.model.gpt import GPT
from lengthen.model.optim import AdamW
from lengthen.model.shards import shard_like
from lengthen.util.errors import CheckpointError, SettingError


def build_model(config: Config, context: DistributedContext) -> GPT:
    """Return the model of a configuration with its seeded initial weights, on its device."""
    shape = config.model
    if shape.vocabulary is None:
        raise SettingError("model.vocabulary", "is missing; a token store gives it")
    model = GPT(
        layers=shape.layers,
        width=shape.width,
        heads=shape.heads,
        length=shape.length,
        vocabulary=shape.vocabulary,
        dropout=shape.dropout,
        init_std=shape.init_std,
    )
    model.recompute = config.run.recompute
    model.initialise(torch.Generator().manual_seed(sub_seed(config.run.seed, "weights")))
    return model.to(device=context.device, dtype=context.dtype)


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


def load_moments(optimizer: AdamW, model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give the optimizer the moments of a checkpoint; raises CheckpointError for other shapes."""
    saved = checkpoint.tensors.get("optimizer", {})
    for name, parameter in model.named_parameters():
        state = {}
        for key, target in _places(optimizer, parameter).items():
            moment = saved.get(f"{name}.{key}")
            if moment is None:
                continue
            if moment.shape != target.shape:
                found = f"{name}.{key} of shape {tuple(moment.shape)}"
                raise CheckpointError(f"{checkpoint.path.name}: has {found}; {OTHER}")
            state[key] = shard_like(moment, target)
        if state:
            optimizer.state[parameter] = state


def _places(optimizer: AdamW, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return for each moment of a parameter a tensor that lies where it has to lie."""
    # The fused update keeps its step count beside the weights, the plain one on the host.
    fused = bool(optimizer.defaults["fused"])
    count = torch.empty((), device=parameter.device if fused else "cpu")
    return {"step": count, "exp_avg": parameter, "exp_avg_sq": parameter}

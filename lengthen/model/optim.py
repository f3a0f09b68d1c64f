"""The optimizer of a run: groups, rate, clipping, the guarded update, the moments' scale.

Nothing here makes the host wait for the device; a step's one sync belongs to the trainer.
"""

import inspect
import math
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lengthen.config.schema import Optimizer
from lengthen.core.schedule import StepPlan
from lengthen.model.gpt import GPT
from lengthen.model.muon import Muon, hidden_matrices
from lengthen.model.shards import is_sharded, local_shard

Group = dict[str, Any]  # as torch has it


class AdamW(torch.optim.AdamW):
    """AdamW, with Muons beside it; its fused update changes nothing where `found_inf` holds 1.

    Its methods are torch's without the wrappers that hide them from torch's compiler: these import
    the compiler, which takes more than a second, and nothing here compiles the update.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

    # Read by torch's fused kernels, which give the step count back too: a 0-d float32 tensor.
    found_inf: Tensor | None = None
    muons: Mapping[nn.Parameter, Muon] = MappingProxyType({})  # of parameters that it has not

    def owner(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        """Return the optimizer that updates a parameter."""
        return self.muons.get(parameter, self)


def parameter_groups(
    model: GPT, weight_decay: float, *, decay_positions: bool, without: Iterable[nn.Parameter] = ()
) -> list[Group]:
    """Return the parameters with weight decay and those without, but for those of `without`.

    Matrices decay, vectors do not: biases and gains have no scale to shrink. The position table
    decays only where `decay_positions` says so, as in the paper's runs: most of a warmup leaves
    its far rows untrained, and they would fade before their turn.
    """
    table = None if model.positions is None else model.positions.weight
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    others = set(without)
    for parameter in (one for one in model.parameters() if one not in others):
        decays = parameter.dim() > 1 and (decay_positions or parameter is not table)
        (decayed if decays else undecayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]


def build_optimizer(model: GPT, settings: Optimizer) -> AdamW:
    """Return AdamW over `model`, fused where this build has it for the model's device.

    `defaults["fused"]` says which it is. The rate is 0 until `set_rate` gives one. With
    `kind = "muon"` the matrices inside the layers have Muons instead.
    """
    matrices = hidden_matrices(model) if settings.kind == "muon" else []
    decay = settings.weight_decay
    groups = parameter_groups(
        model, decay, decay_positions=settings.decay_positions, without=matrices
    )
    build = partial(AdamW, groups, lr=0.0, betas=settings.betas, eps=settings.epsilon)
    try:
        # An Apple GPU's fused kernel is not known to heed `found_inf`.
        optimizer = build(fused=model.tokens.weight.device.type != "mps")
    except RuntimeError:  # torch refuses where the device has no fused kernel
        optimizer = build(fused=False)
    optimizer.muons = {matrix: Muon(matrix, decay) for matrix in matrices}
    return optimizer


def set_rate(optimizer: AdamW, rate: float) -> None:
    """Set the learning rate of the next update."""
    for one in (optimizer, *optimizer.muons.values()):
        for group in one.param_groups:
            group["lr"] = rate


def set_step(
    optimizer: AdamW, settings: Optimizer, plan: StepPlan, trained: int, updates: int
) -> None:
    """Set a step's learning rate and, where settings give its half-life, AdamW's beta2.

        beta2 = 2 ** (-tokens / half_life)              (Marek et al., arXiv:2507.07101)

    `trained` tokens and `updates` are those of all updates so far and this one. The second moment v
    lacks c = 1 - the product of their beta2 = 1 - 2 ** (-trained / half_life) (Kingma and Ba,
    arXiv:1412.6980, section 3); torch corrects it by C = 1 - beta2 ** updates. With s = sqrt(c / C)

        s * rate * m / (sqrt(v / C) + s * epsilon) = rate * m / (sqrt(v / c) + epsilon)

    is exact, and so is a weight decay of 1 / s. Steps of equal tokens have s = 1 to the last bit.
    """
    set_rate(optimizer, plan.learning_rate)
    if settings.beta2_half_life is None:
        return
    beta2 = 0.5 ** (plan.tokens / settings.beta2_half_life)
    scale = math.sqrt((1 - beta2 ** (trained / plan.tokens)) / (1 - beta2**updates))
    for group in optimizer.param_groups:
        group["betas"] = group["betas"][0], beta2
        group["lr"] *= scale
        group["eps"] = scale * settings.epsilon
        if group["weight_decay"]:
            group["weight_decay"] = settings.weight_decay / scale


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients down to a global l2 norm of `limit`; 0 leaves them as they are.

    Returns the norm before that: 0-d, on the gradients' device, not finite where one of them is
    not. A gradient that is not finite spoils the others; the update must then be skipped.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm([local_shard(p.grad) for p in parameters if p.grad is not None])
    if any(is_sharded(parameter) for parameter in parameters):
        # Of the shards together; torch's own sum over sharded tensors is one exchange for each.
        dist.all_reduce(norm.square_())
        norm.sqrt_()
    if limit > 0:
        clip_grads_with_norm_(parameters, limit, norm)
    return norm


def update(optimizer: AdamW, finite: Tensor) -> None:
    """Update the weights where `finite` (0-d bool) is true, and touch nothing where it is false.

    Nothing means weights, moments and Adam's own step count. Fused, the flag stays on the device;
    otherwise the host reads it, at the price of one more sync.
    """
    for muon in optimizer.muons.values():
        muon.update(finite)
    if optimizer.defaults["fused"]:
        optimizer.found_inf = (~finite).float()
        optimizer.step()
    elif finite:
        optimizer.step()


def second_moment_scale(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the variance norm and the variance max (arXiv:2108.06084): (2,), on the device.

    The l1 norm and the largest element of sqrt(v), v = Adam's second moment without bias
    correction, over all parameters that have one (Muon's have not) and the shards of all ranks;
    zeros before the first update.
    """
    norms, largest = [], []
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # In the groups' order: that of the state is another one after a resume, and so are sums of it.
    # One at a time: the roots of all at once would be a fourth copy of the weights.
    for parameter in parameters:
        moment = optimizer.state.get(parameter, {}).get("exp_avg_sq")
        if moment is None:
            continue
        root = local_shard(moment).sqrt()
        if root.numel():  # an empty shard has no largest element
            norms.append(root.sum())
            largest.append(root.max())
    nothing = local_shard(parameters[0]).new_zeros(())
    norm = torch.stack([nothing, *norms]).sum()
    most = torch.stack([nothing, *largest]).max()
    if is_sharded(parameters[0]):
        dist.all_reduce(norm)
        dist.all_reduce(most, dist.ReduceOp.MAX)
    return torch.stack([norm, most])


def update_rms(optimizer: AdamW) -> Tensor:
    """Return the root mean square of each group's last update, before rate and decay: (groups,).

        u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon)

    The last group is that of all Muons, where there are any: theirs is what the matrices moved by.
    Over the shards of all ranks, on the device; NaN before the first update.
    """
    groups = optimizer.param_groups
    sums = [_squared_update(optimizer, group) for group in groups]
    counts = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
    if optimizer.muons:
        sums.append(torch.stack([muon.square for muon in optimizer.muons.values()]).sum())
        counts.append(sum(matrix.numel() for matrix in optimizer.muons))
    squares = torch.stack(sums)
    if is_sharded(groups[0]["params"][0]):
        dist.all_reduce(squares)
    return (squares / squares.new_tensor(counts)).sqrt()


def _squared_update(optimizer: AdamW, group: Group) -> Tensor:
    total = local_shard(group["params"][0]).new_zeros(())
    for parameter in group["params"]:
        state = optimizer.state.get(parameter)
        if not state:
            return total * math.nan
        first, second = (local_shard(state[name]) for name in ("exp_avg", "exp_avg_sq"))
        # 1 - beta^t: the plain difference would have few digits left at the first steps.
        logs = (math.log(max(beta, 1e-30)) for beta in group["betas"])
        bias1, bias2 = (-torch.expm1(state["step"].to(total.device) * log) for log in logs)
        root = (second / bias2).sqrt_().add_(group["eps"])
        total += torch.div(first, root, out=root).square_().sum() / bias1**2
    # `set_step` moves its correction of the second moment into rate and epsilon.
    scale: float = group["eps"] / optimizer.defaults["eps"]
    return total * scale**2

"""What the trainer is measured against: one model shape, loops that do as little as they can.

6 layers, width 384, 6 heads, vocabulary 8192, float32, no dropout, on a processor, unless another
`Case` is given. Each loop is forward, backward,
clipping at 1.0 and torch's fused AdamW over passes of a given size; gradients are freed after the
update, which is faster than zeroing them. `litgpt` is its GPT-NeoX layout of the same size (it has
no learned positions, and an output head of its own), with its chunked or the plain loss, whichever
is faster; `transformers` is its GPT-2 with SDPA attention.

    pip install --no-deps litgpt lightning lightning-utilities torchmetrics jsonargparse psutil

installs litgpt beside a newer transformers, which its own requirements do not allow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthen.config.model import Model
from lengthen.distributed.context import SINGLE_PROCESS, DistributedContext
from lengthen.model.gpt import GPT

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS = 6, 384, 6, 8192, 1024
Loss = Callable[[Tensor, Tensor], Tensor]  # inputs, targets (rows, length) -> sum of the losses
Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Case:
    """The model that all train, and where."""

    layers: int = LAYERS
    width: int = WIDTH
    heads: int = HEADS
    vocabulary: int = VOCABULARY
    positions: int = POSITIONS
    context: DistributedContext = SINGLE_PROCESS


SMALL = Case()
Made = Callable[[Case], tuple[nn.Module, Loss]]


def bare(case: Case) -> tuple[nn.Module, Loss]:
    """Our own model, for the barest loop around it."""
    model = GPT(
        Model(
            layers=case.layers,
            width=case.width,
            heads=case.heads,
            length=case.positions,
            vocabulary=case.vocabulary,
        )
    )
    model.initialise(torch.Generator().manual_seed(0))
    return model, model


def litgpt(case: Case, *, chunked: bool) -> tuple[nn.Module, Loss]:
    """litgpt's GPT, with the loss in its own chunks or plain."""
    library, utils = import_module("litgpt"), import_module("litgpt.utils")
    model: nn.Module = library.GPT(
        library.Config(
            n_layer=case.layers,
            n_head=case.heads,
            n_embd=case.width,
            block_size=case.positions,
            vocab_size=case.vocabulary,
            padded_vocab_size=case.vocabulary,
            bias=True,
            norm_class_name="LayerNorm",
            mlp_class_name="GptNeoxMLP",
            parallel_residual=False,
            rotary_percentage=0.25,
        )
    )

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        if not chunked:
            return plain_loss(model(inputs), targets)
        logits = model(inputs, lm_head_chunk_size=128)
        mean: Tensor = utils.chunked_cross_entropy(logits, targets)
        return mean * targets.numel()

    return model, loss


def transformers(case: Case) -> tuple[nn.Module, Loss]:
    """Transformers' GPT-2."""
    library = import_module("transformers")
    config = library.GPT2Config(
        n_layer=case.layers,
        n_embd=case.width,
        n_head=case.heads,
        vocab_size=case.vocabulary,
        n_positions=case.positions,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        attn_implementation="sdpa",
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: nn.Module = library.GPT2LMHeadModel(config)
    return model, lambda inputs, targets: plain_loss(model(input_ids=inputs).logits, targets)


def plain_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the losses of logits (rows, length, vocabulary)."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def step_of(
    model: nn.Module, loss: Loss, pass_tokens: int, context: DistributedContext = SMALL.context
) -> Step:
    """Return one training step over (rows, length), in passes of at most `pass_tokens`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step(inputs: Tensor, targets: Tensor) -> None:
        rows = max(1, pass_tokens // inputs.shape[1])
        for part, goal in zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True):
            with context.autocast():
                total = loss(part, goal)
            torch.autograd.backward(total / inputs.numel())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if context.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def ready(
    made: Made, tokens: int, length: int, pass_tokens: int, case: Case = SMALL
) -> Callable[[], None]:
    """Return one step of `tokens` tokens over a batch that lies ready."""
    model, loss = made(case)
    device = case.context.device
    step = step_of(model.to(device), loss, pass_tokens, case.context)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(case.vocabulary, (tokens // length, length + 1), generator=generator)
    inputs, targets = (part.contiguous().to(device) for part in (batch[:, :-1], batch[:, 1:]))
    return partial(step, inputs, targets)

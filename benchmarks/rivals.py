"""What the trainer is measured against: one model shape, loops that do as little as they can.

6 layers, width 384, 6 heads, vocabulary 8192, float32, no dropout. Each loop is forward, backward,
clipping at 1.0 and torch's fused AdamW over passes of a given size; gradients are freed after the
update, which is faster than zeroing them. `litgpt` is its GPT-NeoX layout of the same size (it has
no learned positions, and an output head of its own), with its chunked or the plain loss, whichever
is faster; `transformers` is its GPT-2 with SDPA attention.

    pip install --no-deps litgpt lightning lightning-utilities torchmetrics jsonargparse psutil

installs litgpt beside a newer transformers, which its own requirements do not allow.
"""

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthen.model import GPT

LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS = 6, 384, 6, 8192, 1024
Loss = Callable[[Tensor, Tensor], Tensor]  # inputs, targets (rows, length) -> sum of the losses
Step = Callable[[Tensor, Tensor], None]
Made = Callable[[], tuple[nn.Module, Loss]]


def bare() -> tuple[nn.Module, Loss]:
    """Our own model, for the barest loop around it."""
    model = GPT(layers=LAYERS, width=WIDTH, heads=HEADS, length=POSITIONS, vocabulary=VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    return model, model


def litgpt(*, chunked: bool) -> tuple[nn.Module, Loss]:
    """litgpt's GPT, with the loss in its own chunks or plain."""
    library, utils = import_module("litgpt"), import_module("litgpt.utils")
    model: nn.Module = library.GPT(
        library.Config(
            n_layer=LAYERS,
            n_head=HEADS,
            n_embd=WIDTH,
            block_size=POSITIONS,
            vocab_size=VOCABULARY,
            padded_vocab_size=VOCABULARY,
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


def transformers() -> tuple[nn.Module, Loss]:
    """Transformers' GPT-2."""
    library = import_module("transformers")
    config = library.GPT2Config(
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=HEADS,
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
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


def step_of(model: nn.Module, loss: Loss, pass_tokens: int) -> Step:
    """Return one training step over (rows, length), in passes of at most `pass_tokens`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step(inputs: Tensor, targets: Tensor) -> None:
        rows = max(1, pass_tokens // inputs.shape[1])
        for part, goal in zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True):
            torch.autograd.backward(loss(part, goal) / inputs.numel())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ready(made: Made, tokens: int, length: int, pass_tokens: int) -> Callable[[], None]:
    """Return one step of `tokens` tokens over a batch that lies ready."""
    model, loss = made()
    step = step_of(model, loss, pass_tokens)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(VOCABULARY, (tokens // length, length + 1), generator=generator)
    inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
    return lambda: step(inputs, targets)

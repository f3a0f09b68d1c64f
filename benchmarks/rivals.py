"""What the trainer is measured against: one model shape, loops that do as little as they can.

6 layers, width 384, 6 heads, vocabulary 8192, float32 or under autocast bfloat16, no dropout, on a
processor, unless another `Case` is given. Each loop is forward, backward,
clipping at 1.0 and torch's fused AdamW over passes of a given size; gradients are freed after the
update, which is faster than zeroing them. `litgpt` is its GPT-NeoX layout of the same size (it has
no learned positions, and an output head of its own), with its chunked or the plain loss, whichever
is faster; `transformers` is its GPT-2 with SDPA attention. `lightning` is Lightning's Trainer
around litgpt's model. The bare loop has the trainer's own tricks: its layers are compiled as ours
are, and its passes and casts are ours.

    pip install --no-deps litgpt lightning lightning-utilities torchmetrics jsonargparse psutil

installs litgpt beside a newer transformers, which its own requirements do not allow.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lengthen.config.model import Model
from lengthen.distributed.context import SINGLE_PROCESS, DistributedContext
from lengthen.distributed.wrap import compile_blocks
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
    compiled: bool = False


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
    if case.compiled:
        compile_blocks(model)
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
    if case.compiled:
        model.compile()

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
    if case.compiled:
        model.compile()
    return model, lambda inputs, targets: plain_loss(model(input_ids=inputs).logits, targets)


MADE: dict[str, list[Made]] = {
    "bare": [bare],
    "litgpt": [partial(litgpt, chunked=False), partial(litgpt, chunked=True)],
    "transformers": [transformers],
}


def plain_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the losses of logits (rows, length, vocabulary)."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def step_of(
    model: nn.Module,
    loss: Loss,
    pass_tokens: int,
    context: DistributedContext = SMALL.context,
    *,
    keeps_casts: bool = False,
) -> Step:
    """Return one training step over (rows, length), in passes of at most `pass_tokens`.

    With `keeps_casts` they share one cast of each weight, as the trainer's do.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step(inputs: Tensor, targets: Tensor) -> None:
        rows = max(1, pass_tokens // inputs.shape[1])
        with context.keeps_casts() if keeps_casts else nullcontext():
            for part, goal in zip(
                torch.split(inputs, rows), torch.split(targets, rows), strict=True
            ):
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
    step = step_of(model.to(device), loss, pass_tokens, case.context, keeps_casts=made is bare)
    inputs, targets = (part.to(device) for part in _batch(case, tokens, length))
    return partial(step, inputs, targets)


def _batch(case: Case, tokens: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(case.vocabulary, (tokens // length, length + 1), generator=generator)
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()


@dataclass(frozen=True)
class _Endless:
    parts: list[tuple[Tensor, Tensor]]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.cycle(self.parts)


def lightning(
    made: Made, tokens: int, length: int, pass_tokens: int, case: Case = SMALL
) -> Callable[[], None]:
    """Return one step of Lightning's Trainer, from the beginning of one to that of the next.

    It has no logger, no bar and no checkpoints, and fits in a thread that waits before each step.
    """
    library: Any = import_module("lightning.pytorch")
    model, loss = made(case)
    count, rows = max(1, tokens // max(pass_tokens, length)), max(1, pass_tokens // length)
    inputs, targets = _batch(case, tokens, length)
    parts = list(zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True))
    asked, done = queue.SimpleQueue[bool](), queue.SimpleQueue[bool]()

    class Module(library.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, part: tuple[Tensor, Tensor], _: int) -> Tensor:
            return loss(*part) / part[0].numel()

        def on_train_batch_start(self, _: object, number: int) -> None:
            if number % count == 0:
                if number:
                    done.put(True)
                asked.get()

        def configure_gradient_clipping(self, *_: object, **__: object) -> None:
            # Its own refuses a fused optimizer.
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    trainer = library.Trainer(
        accelerator="cpu",
        precision="bf16-mixed" if case.context.precision == "bf16" else "32-true",
        accumulate_grad_batches=count,
        max_steps=-1,
        barebones=True,
    )
    threading.Thread(target=trainer.fit, args=(Module(), _Endless(parts)), daemon=True).start()

    def step() -> None:
        asked.put(True)
        done.get()

    return step

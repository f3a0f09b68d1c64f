"""nanogpt.py with a length warmup, 22 lines changed.

python nanogpt_lengthened.py --text=FILE --out_dir=DIR [--init_from=resume]
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lengthen

text, out_dir, init_from, seed = "text.txt", "out", "scratch", 1337
max_iters, eval_interval, eval_iters, batch_size, block_size = 300, 50, 8, 8, 64
gradient_accumulation_steps, grad_clip, warmup_iters = 2, 1.0, 20
learning_rate, min_lr, n_embd, n_head, n_layer = 1e-3, 1e-4, 64, 2, 2
for word in sys.argv[1:]:
    key, value = word.removeprefix("--").split("=", 1)
    globals()[key] = type(globals()[key])(value)

rows = gradient_accumulation_steps * batch_size
tokens_per_iter = rows * block_size
torch.manual_seed(seed)
data = torch.frombuffer(bytearray(Path(text).read_bytes()), dtype=torch.uint8).long()
parts = {"train": data[: -len(data) // 10], "val": data[-len(data) // 10 :]}


class GPT(nn.Module):
    """Bytes to logits, whose positions and attention are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, n_embd), nn.Embedding(block_size, n_embd)
        layer = nn.TransformerEncoderLayer(n_embd, n_head, 4 * n_embd, 0.0, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, n_layer), nn.Linear(n_embd, 256)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of (rows, length) bytes and the ones that follow."""
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.tokens(x) + self.positions.weight[:length]
        logits = self.head(self.body(hidden, mask=mask, is_causal=True))
        return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


def get_batch(split: str, among: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return rows at random places, and the same one byte on."""
    part = parts[split]
    starts = torch.randint(len(part) - block_size, (batch_size,), generator=among).tolist()
    rows = torch.stack([part[start : start + block_size + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def estimate_loss() -> float:
    """Return the loss of some batches of the validation part, the same for every run."""
    same = torch.Generator().manual_seed(0)
    losses = torch.stack([model(*get_batch("val", same)) for _ in range(eval_iters)])
    return losses.mean().item()


model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
pacing = lengthen.Linear(start=8, end=block_size, duration=max_iters // 3)
given: dict[str, Any] = {"rows": rows, "seed": seed, "min_learning_rate": min_lr / learning_rate}
plan = lengthen.DataPlan(
    pacing=pacing, budget=max_iters * tokens_per_iter, warmup_steps=warmup_iters, **given
)
max_iters = plan.number_of_steps()  # as many tokens as in nanogpt.py, in more steps
cut = {"gradient_accumulation_steps": gradient_accumulation_steps}
stream = lengthen.BatchStream(parts["train"].numpy(), plan, **cut)
scheduler = plan.lr_scheduler(optimizer)
states: dict[str, Any] = {
    "model": model,
    "optimizer": optimizer,
    "scheduler": scheduler,
    "stream": stream,
}
checkpoint = torch.load(f"{out_dir}/ckpt.pt") if init_from == "resume" else {}
for name, part in states.items():
    if checkpoint:
        part.load_state_dict(checkpoint[name])
log = lengthen.RunLog(out_dir, plan, saved=checkpoint.get("log"))
for step, micro_batches in stream:
    iter_num, total = step.number, 0.0
    for x, y, _, share in micro_batches:
        loss = share * model(x, y)
        torch.autograd.backward(loss)
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    log.step(step, loss=total, grad_norm=norm, optimizer=optimizer)
    scheduler.step()
    optimizer.zero_grad()
    if iter_num % eval_interval == 0 or iter_num == max_iters:
        log.evaluation(estimate_loss())
        saved = {name: part.state_dict() for name, part in states.items()}
        torch.save({**saved, "log": log.state_dict()}, f"{out_dir}/ckpt.pt")
log.finish()

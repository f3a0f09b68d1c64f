"""A script over the Trainer of Transformers, which knows nothing of lengthen.

python trainer.py TEXT OUT SEED SCHEDULE [STEPS]. trainer.toml compares its schedules.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

text, out, seed, schedule, *more = sys.argv[1:]
rows, length, steps = 16, 64, int(more[0]) if more else 300


class JsonLines(TrainerCallback):
    """Writes each record that the Trainer logs as a line, with the tokens so far."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add a line."""
        place = {"step": state.global_step, "tokens": state.global_step * rows * length}
        with (Path(out) / "log.jsonl").open("a") as file:
            file.write(json.dumps({**logs, **place}) + "\n")


data = torch.frombuffer(bytearray(Path(text).read_bytes()), dtype=torch.uint8).long()
pieces = [{"input_ids": row, "labels": row} for row in data.unfold(0, length, length)]
config = GPT2Config(vocab_size=256, n_positions=length, n_embd=64, n_layer=2, n_head=2)
torch.manual_seed(int(seed))  # of the weights
model = GPT2LMHeadModel(config)
arguments = TrainingArguments(
    out,
    seed=int(seed),
    learning_rate=3e-3,
    lr_scheduler_type=schedule,
    warmup_steps=20,
    per_device_train_batch_size=rows,
    max_steps=steps,
    logging_steps=10,
    eval_strategy="steps",
    eval_steps=steps,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=not torch.cuda.is_available(),
)
train, valid = pieces[: -len(pieces) // 10], pieces[-len(pieces) // 10 :]
Trainer(model, arguments, train_dataset=train, eval_dataset=valid, callbacks=[JsonLines()]).train()

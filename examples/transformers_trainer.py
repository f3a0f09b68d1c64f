"""Length warmup in a Trainer: python examples/transformers_trainer.py STORE OUT [TOKENS].

STORE is what `lengthen prepare` wrote. Where OUT has a checkpoint, the same command continues.
"""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

import lengthen
from lengthen.integrations.transformers import LengthenCallback, LengthenDataset

store, out, *more = sys.argv[1:]
pacing = lengthen.Linear(start=8, end=128, duration=100)
budget = int(more[0]) if more else 400_000
plan = lengthen.DataPlan(pacing=pacing, rows=32, budget=budget, warmup_steps=20)
dataset = LengthenDataset(store, plan)
config = LlamaConfig(
    vocab_size=dataset.store.vocabulary,
    hidden_size=128,
    intermediate_size=344,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=128,
)
set_seed(0)  # for the weights
model = LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
arguments = TrainingArguments(
    out,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=2,
    num_train_epochs=1,
    train_sampling_strategy="sequential",
    remove_unused_columns=False,
    logging_steps=1,
    eval_strategy="steps",
    eval_steps=50,
    save_steps=50,
    report_to="none",
    use_cpu=not torch.cuda.is_available(),  # needed by torchrun on a CPU
)
trainer = Trainer(
    model,
    arguments,
    train_dataset=dataset,
    eval_dataset=dataset.validation(),
    callbacks=[LengthenCallback(dataset, out)],
    optimizers=(optimizer, dataset.lr_scheduler(optimizer)),
)
trainer.train(resume_from_checkpoint=any(Path(out).glob("checkpoint-*")))

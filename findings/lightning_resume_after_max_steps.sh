#!/usr/bin/env bash
# lightning 2.6.6 with torchdata 0.11.0: a run that max_steps ended in the middle of an epoch does not go on
# where it stopped. Its epoch is counted as done when it ends, and the file that says so is the one that one
# resumes from: that of ModelCheckpoint without arguments, or of save_checkpoint after fit. A file of the same
# step from every_n_train_steps resumes exactly. Nothing is raised or warned about; the log says what it says
# at the end of each run, that max_epochs was reached.
#
# 1. With max_epochs=1 a resume with a larger max_steps trains nothing, whatever the loader. What is
#    evaluated after it are the old weights.
# 2. With more epochs, ModelCheckpoint's file trains the rest of its epoch, counts that as one more, and
#    leaves out the last.
# 3. save_checkpoint's leaves out the rest of its epoch. The next begins at the first row with the old
#    epoch's count of batches, and ends as many early as that had.
# 4. Resumed without max_steps, both leave out the rest of the epoch and no more.
#
# Output seen (8 rows in batches of 1, saved at max_steps=5; the rows trained on after the resume):
#   every_n_train_steps: 1 epoch [5, 6, 7], 2 epochs [5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7], without max_steps the same
#   ModelCheckpoint(): 1 epoch [], 2 epochs [5, 6, 7], without max_steps [0, 1, 2, 3, 4, 5, 6, 7]
#   save_checkpoint: 1 epoch [], 2 epochs [0, 1, 2], without max_steps [0, 1, 2, 3, 4, 5, 6, 7]
#   ModelCheckpoint() with torch's DataLoader: rows, 1 epoch []; a stream, 1 epoch []
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 lightning==2.6.6 torchdata==0.11.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import logging
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

logging.disable(logging.CRITICAL)
ROWS = torch.arange(8.0)[:, None]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, _):
        self.seen.append(int(batch))
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(epochs, steps, callbacks=()):
    return Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, max_steps=steps, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_progress_bar=False, enable_model_summary=False,
        logger=False,
    )


def resumed(name, loader, epochs, steps):
    """Return the rows that are trained on after a resume from one of the three files."""
    place = Path(sys.argv[1]) / f"{name}-{epochs}"
    save = {"every": ModelCheckpoint(place, every_n_train_steps=5), "default": ModelCheckpoint(place)}
    first = trainer(epochs, 5, [save[name]] if name in save else [])
    first.fit(Module(), loader())
    if name == "after":
        first.save_checkpoint(place / "after.ckpt")
    (file,) = place.glob("*.ckpt")
    again, module = trainer(epochs, steps), Module()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        again.fit(module, loader(), ckpt_path=file)
    file.unlink()
    assert not any("ended before" in str(one.message) for one in warned)
    return module.seen


def stateful():
    return StatefulDataLoader(ROWS, batch_size=1)


found = {
    name: [resumed(name, stateful, *limits) for limits in ((1, 8), (2, 16), (2, -1))]
    for name in ("every", "default", "after")
}
plain = [resumed("default", lambda data=data: DataLoader(data), 1, 8) for data in (ROWS, Stream())]
words = {"every": "every_n_train_steps", "default": "ModelCheckpoint()", "after": "save_checkpoint"}
for name, (one, two, unlimited) in found.items():
    print(f"{words[name]}: 1 epoch {one}, 2 epochs {two}, without max_steps {unlimited}")
print("ModelCheckpoint() with torch's DataLoader: rows, 1 epoch {}; a stream, 1 epoch {}".format(*plain))
rest, epoch = [5, 6, 7], list(range(8))
as_seen = found == {
    "every": [rest, rest + epoch, rest + epoch],
    "default": [[], rest, epoch],
    "after": [[], [0, 1, 2], epoch],
}
sys.exit(0 if as_seen and plain == [[], []] else 1)
PYTHON

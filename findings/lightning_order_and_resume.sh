#!/usr/bin/env bash
# lightning 2.6.6: two ways in which a Trainer feeds other batches than its loader has, without an error
# or a warning that names them.
#
# 1. A DataLoader with shuffle=False keeps its order on one device and is shuffled on two: the sampler
#    that takes its place shuffles what is trained on, whatever the loader's own did.
#    `use_distributed_sampler=False` leaves the loader as it is.
# 2. A loader with state_dict and load_state_dict resumes exactly where it has a __len__. Without one
#    Lightning fetches a batch ahead, saves the state after that, and the batch that was fetched and
#    not trained on is lost at every resume.
#
# Output seen (12 rows in batches of 2; 8 batches, saved after the fourth):
#   1 device: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]; 2 devices in order: False
#   resumed with __len__: [4, 5, 6, 7], without: [5, 6, 7]
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 lightning==2.6.6
cat > "$folder/look.py" <<'PYTHON'
import json
import logging
import sys
import warnings
from pathlib import Path

logging.disable(logging.CRITICAL)
warnings.filterwarnings("ignore")
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

out, devices = Path(sys.argv[1]), int(sys.argv[2])
common = {
    "accelerator": "cpu", "devices": devices, "max_epochs": 1, "logger": False,
    "strategy": "ddp" if devices > 1 else "auto",
    "enable_progress_bar": False, "enable_model_summary": False,
}


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, _):
        self.seen += batch.flatten().int().tolist()
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Loader:
    """Eight batches of one row, by number; it says where it stands."""

    def __init__(self):
        self.next = 0

    def __iter__(self):
        while self.next < 8:
            self.next += 1
            yield torch.tensor([[float(self.next - 1)]])

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class Sized(Loader):
    def __len__(self):
        return 8


def resumed(kind):
    place = out / kind.__name__
    save = ModelCheckpoint(place, "{step}", every_n_train_steps=4, save_top_k=-1)
    Trainer(callbacks=[save], **common).fit(Module(), kind())
    module = Module()
    trainer = Trainer(enable_checkpointing=False, **common)
    trainer.fit(module, kind(), ckpt_path=str(place / "step=4.ckpt"))
    return module.seen


module = Module()
loader = DataLoader(torch.arange(12.0)[:, None], batch_size=2, shuffle=False)
trainer = Trainer(enable_checkpointing=False, **common)
trainer.fit(module, loader)
found = {"order": module.seen}
if devices == 1:
    found |= {"sized": resumed(Sized), "unsized": resumed(Loader)}
(out / f"{devices}-{trainer.global_rank}.json").write_text(json.dumps(found))
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder" 1 > /dev/null 2>&1
"$folder/venv/bin/python" "$folder/look.py" "$folder" 2 > /dev/null 2>&1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

one, *two = (json.loads((Path(sys.argv[1]) / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
kept = all(found["order"] == sorted(found["order"]) for found in two)
print(f"1 device: {one['order']}; 2 devices in order: {kept}")
print(f"resumed with __len__: {one['sized']}, without: {one['unsized']}")
same = one == {"order": list(range(12)), "sized": [4, 5, 6, 7], "unsized": [5, 6, 7]} and not kept
sys.exit(0 if same else 1)
PYTHON

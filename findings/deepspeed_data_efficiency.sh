#!/usr/bin/env bash
# deepspeed 0.19.8, on a processor: two ways in which its data_efficiency does other than its settings say.
#
# 1. The metric `seqlen_truncate`, which its examples name, cuts nothing. The sampler counts its difficulty
#    up and gives the numbers of whole rows; a loop that does not cut them itself (by
#    `set_data_post_process_func`) trains on full rows from the first step. Nothing says so.
# 2. A sampler that was saved and loaded continues in another order: its draws come from a generator of
#    its own, and what it saves and restores is the state of numpy's global one.
#
# Output seen (64 rows of 64 tokens, batches of 4, a length of 8 to 64 in 4 steps, saved after 3 batches):
#   difficulty 16, rows of 64 tokens
#   unbroken [63, 34, 59, 43], resumed [34, 59, 63, 43]; 0 of 5 batches alike
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 setuptools wheel
export PATH="$folder/venv/bin:$PATH" TORCH_EXTENSIONS_DIR="$folder/extensions"
DS_BUILD_OPS=0 "${pip[@]}" --no-build-isolation deepspeed==0.19.8
cat > "$folder/look.py" <<'PYTHON'
import copy
import os
import sys

os.environ.update(
    MASTER_ADDR="127.0.0.1", MASTER_PORT="29611", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0"
)
import deepspeed
import torch
from deepspeed.runtime.data_pipeline.config import get_data_efficiency_config
from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import DeepSpeedDataSampler

deepspeed.init_distributed("gloo")
group = torch.distributed.group.WORLD


def sampler(name):
    metric = {
        "index_to_sample_path": "dummy", "index_to_metric_path": "dummy",
        "difficulty_type": "value", "clustering_type": "single_cluster",
        "min_difficulty": 8, "max_difficulty": 64, "schedule_type": "fixed_linear",
        "schedule_config": {"total_curriculum_step": 4, "difficulty_step": 8},
    }
    curriculum = {
        "enabled": True, "data_cluster_path": f"{sys.argv[1]}/{name}",
        "curriculum_metrics": {"seqlen_truncate": metric},
    }
    sampling = {"enabled": True, "curriculum_learning": curriculum}
    config = {"data_efficiency": {"enabled": True, "seed": 1234, "data_sampling": sampling}}
    own = get_data_efficiency_config(config)
    return DeepSpeedDataSampler(own, 64, 4, 0, 1, group, 1, global_rank=0)


one = sampler("one")
rows = torch.utils.data.DataLoader(torch.zeros(64, 64), batch_sampler=one)
batches = iter(rows)
length = next(batches).shape[1]
difficulty = one.current_difficulties["seqlen_truncate"]
print(f"difficulty {difficulty}, rows of {length} tokens")

two = sampler("two")
batches = iter(two)
for _ in range(3):
    next(batches)
saved = copy.deepcopy(two.state_dict())
unbroken = [next(batches) for _ in range(5)]
three = sampler("two")
three.load_state_dict(saved)
batches = iter(three)
resumed = [next(batches) for _ in range(5)]
alike = sum(a == b for a, b in zip(unbroken, resumed))
print(f"unbroken {unbroken[0]}, resumed {resumed[0]}; {alike} of 5 batches alike")
same = difficulty < 64 and length == 64 and alike == 0
sys.exit(0 if same else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" "$folder" 2> /dev/null | grep -E "difficulty|unbroken"

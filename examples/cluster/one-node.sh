#!/usr/bin/env bash
# One machine: a process for each GPU, or as many as PROCESSES says.
#
#   examples/cluster/one-node.sh gpt2-117m store runs/first --run.sharded true
#
# The same command again resumes the run. If a process dies, all are restarted, up to three times.
set -euo pipefail
recipe=$1 store=$2 run=$3
shift 3
train=(-m lengthen train "$recipe" --data "$store" --out "$run" --resume auto --quiet "$@")
processes=${PROCESSES:-$(nvidia-smi --list-gpus | wc -l)}
# Mistakes in the arguments are reported here, once, and not by every process.
python "${train[@]}" --dry-run > /dev/null
export PET_SHUTDOWN_TIMEOUT=300 # seconds that torchrun waits for a save
exec torchrun --standalone --nproc-per-node "$processes" --max-restarts 3 "${train[@]}"

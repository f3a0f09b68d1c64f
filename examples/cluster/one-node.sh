#!/usr/bin/env bash
# One machine: a process for each GPU, or as many as PROCESSES says.
#
#   examples/cluster/one-node.sh gpt2-117m store runs/first --run.sharded true
#
# The same words again go on with the run. A process that dies is started again, up to three times.
set -euo pipefail
recipe=$1 store=$2 run=$3
shift 3
processes=${PROCESSES:-$(nvidia-smi --list-gpus | wc -l)}
exec torchrun --standalone --nproc-per-node "$processes" --max-restarts 3 \
    -m lengthen train "$recipe" --data "$store" --out "$run" --resume auto --quiet "$@"

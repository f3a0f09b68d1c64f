#!/usr/bin/env bash
# Several machines: start it on each of them with the same words, in any order.
#
#   NODES=2 HEAD=node0:29500 examples/cluster/each-node.sh gpt2-1.5b store runs/first
#
# HEAD is one of them and a free port there. Store and run lie on a disk that all of them share.
# Where a process dies, all of them are started again, up to three times.
set -euo pipefail
recipe=$1 store=$2 run=$3
shift 3
processes=${PROCESSES:-$(nvidia-smi --list-gpus | wc -l)}
exec torchrun --nnodes "$NODES" --nproc-per-node "$processes" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "$(basename "$run")" \
    -m lengthen train "$recipe" --data "$store" --out "$run" --resume auto --quiet "$@"

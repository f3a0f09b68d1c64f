#!/usr/bin/env bash
# Several machines: start this on each of them with the same arguments, in any order.
#
#   NODES=2 HEAD=node0:29500 examples/cluster/each-node.sh gpt2-1.5b store runs/first
#
# HEAD is one of them and a free port there. Store and run lie on a disk that all of them share.
# If a process dies, all are restarted, up to three times. NODES=1:4 continues with the machines
# that are left, down to one, and lets a machine that is started again join.
set -euo pipefail
recipe=$1 store=$2 run=$3
shift 3
train=(-m lengthen train "$recipe" --data "$store" --out "$run" --resume auto --quiet
    --run.timeout_seconds 120 "$@")
processes=${PROCESSES:-$(nvidia-smi --list-gpus | wc -l)}
getent hosts "${HEAD%:*}" > /dev/null ||
    { echo "lengthen: HEAD: ${HEAD%:*} does not resolve" >&2 && exit 2; }
# Mistakes in the arguments are reported here, once, and not by every process.
python "${train[@]}" --dry-run > /dev/null
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # else a machine that comes back cannot join
export PET_SHUTDOWN_TIMEOUT=300 # seconds that torchrun waits for a save
# Seconds that NODES=1:4 waits for more machines, and that a machine waits for a lost HEAD.
export PET_RDZV_CONF=${PET_RDZV_CONF:-last_call_timeout=10,read_timeout=300}
exec torchrun --nnodes "$NODES" --nproc-per-node "$processes" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "$(basename "$run")" "${train[@]}"

#!/bin/bash
# Extends a context of 512 tokens to 4,096 by a length warmup, in minutes on a laptop:
#   lengthen prepare my-texts/ --tokenizer train:1024 --out store
#   examples/context/extend.sh store runs
# The texts should be long. The second argument is the folder of the runs: `short`, the trunk at 512;
# `long`, branched from it with doubling lengths; and `old`, continued at 512 for as many tokens.
# Both branches end with the same decay of the rate. The last lines are their losses on the tokens
# beyond position 512 of the same validation text, which `old` reads in windows of 512.
set -euo pipefail
store=$1 out=$2 here=$(dirname "$0")

lengthen train "$here/short.toml" --data "$store" --out "$out/short" --budget.tokens "${TRUNK:-2M}"
fall=(--data "$store" --budget.tokens "${MORE:-1024K}" --optimizer.schedule linear
    --optimizer.warmup_steps 0)
lengthen branch "$out/short" --out "$out/long" "${fall[@]}" --model.length 4096 --batch.rows 1 \
    --model.rope_theta 10000 --pacing.kind doubling --pacing.start 512 --pacing.duration 60%
lengthen branch "$out/short" --out "$out/old" "${fall[@]}"
python "$here/beyond.py" 512 "$out/long" "$out/old"

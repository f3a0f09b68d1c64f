#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode around a step of a model on a CPU, as one counts what longer
# sequences cost.
#
# 1. scaled_dot_product_attention counts as no operation on a CPU, forward and backward, with and
#    without a causal or a given mask: the kernel that computes it is not among those that the
#    counter knows. The same products written out are counted. So a token seems to cost the same at
#    every length, and growth of the sequence length seems to save nothing.
# 2. Tensors of FakeTensorMode on a CPU give that zero too, but tensors on "meta" take another path,
#    and are counted: three ways to measure one model without a GPU, and two figures.
# 3. Where attention is counted, a causal one counts in full: twice what its tokens see.
#
# Output seen:
#   forward, length 256: fused 0, written out 33,554,432, on meta 33,554,432, causal on meta 33,554,432
#   forward and backward: fused 0, written out 100,663,296
#   fake tensors: 0
#   a layer's operations a token, length 4,096 over length 64: on a CPU 1.00, on meta 5.85
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch._subclasses import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention as attention
from torch.utils.flop_counter import FlopCounterMode

HEADS, SIZE = 4, 32
WIDTH = HEADS * SIZE


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def random(device, length=256):
    return torch.randn(1, HEADS, length, SIZE, device=device, requires_grad=True)


def written_out(one):
    return (one @ one.transpose(-1, -2)).softmax(-1) @ one


def layer(device, length):
    """Return the operations of one layer's forward pass over a sequence, divided by its tokens."""
    tokens = torch.randn(length, WIDTH, device=device)
    maps = [torch.randn(WIDTH, size * WIDTH, device=device) for size in (3, 1, 4)]
    back = torch.randn(4 * WIDTH, WIDTH, device=device)

    def work():
        heads = (tokens @ maps[0]).view(1, length, 3 * HEADS, SIZE).transpose(1, 2).chunk(3, dim=1)
        mixed = attention(*heads, is_causal=True).transpose(1, 2).reshape(length, WIDTH)
        (mixed @ maps[1] @ maps[2]) @ back

    return counted(work) / length


cpu, meta = random("cpu"), random("meta")
mask = torch.zeros(256, 256)
forward = [
    counted(lambda: attention(cpu, cpu, cpu)),
    counted(lambda: attention(cpu, cpu, cpu, is_causal=True)),
    counted(lambda: attention(cpu, cpu, cpu, attn_mask=mask)),
]
plain = counted(lambda: written_out(cpu))
on_meta = [counted(lambda: attention(meta, meta, meta, is_causal=causal)) for causal in (False, True)]
both = counted(lambda: attention(cpu, cpu, cpu, is_causal=True).sum().backward())
plain_both = counted(lambda: written_out(cpu).sum().backward())
with FakeTensorMode():
    fake = random("cpu")
    faked = counted(lambda: attention(fake, fake, fake, is_causal=True))
growth = {device: layer(device, 4096) / layer(device, 64) for device in ("cpu", "meta")}

print("forward, fused: whole, causal, masked", forward, "written out", plain, "on meta", on_meta)
print("forward and backward: fused", both, "written out", plain_both)
print("fake tensors:", faked)
print("operations a token, length 4,096 over 64:", growth)
as_seen = (
    forward == [0, 0, 0]
    and both == faked == 0
    and plain == on_meta[0] == on_meta[1] == 4 * HEADS * 256 * 256 * SIZE
    and plain_both == 3 * plain
    and growth["cpu"] == 1.0
    and growth["meta"] > 5
)
sys.exit(0 if as_seen else 1)
PYTHON

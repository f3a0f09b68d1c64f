#!/usr/bin/env bash
# accelerate 1.15.0: what a prepared DataLoader does with a batch sampler whose batches differ in size.
# Nothing of it is raised or warned about.
#
# 1. A batch sampler that has a `batch_size` is dealt out in rounds that count only once a full batch
#    came: of six batches over two processes some reach nobody, and the processes get unlike numbers.
#    Without the attribute all six arrive.
# 2. A prepared loader is one batch ahead of the loop. A length set for the next batch arrives one
#    later than from the same loader without `prepare`; with two micro-batches in an update, two
#    lengths meet in one.
# 3. `gather_for_metrics` cuts the last batch to (rows of the dataset) mod (batch_size), which is right
#    where all others are full. Of a larger last batch it drops the rest, in one process too.
#
# Output seen (batches of 8, 4, 2, 8, 4 and 2 rows; a length doubled while batch 2 is trained on):
#   with batch_size: [[2], [8, 8]], and with even_batches=False [[2, 4], [8, 2]]
#   without: [[8, 2, 4], [4, 8, 2]]
#   lengths: [8, 8, 16, 16], prepared [8, 8, 8, 16]
#   batches of [4, 4, 2] rows: 10 of 10 gathered; of [4, 6]: 6 of 10; of [2, 8]: 4 of 10
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader, IterableDataset

host = Accelerator(cpu=True)


class Sizes:
    """A batch sampler of such batches."""

    def __init__(self, *sizes, batch_size=None):
        self.sizes = sizes
        if batch_size is not None:
            self.batch_size, self.drop_last = batch_size, False

    def __len__(self):
        return len(self.sizes)

    def __iter__(self):
        first = 0
        for size in self.sizes:
            yield list(range(first, first + size))
            first += size


def dealt(sampler, **options):
    shards = [BatchSamplerShard(sampler, 2, rank, **options) for rank in (0, 1)]
    return [[len(batch) for batch in shard] for shard in shards]


class Growing(IterableDataset):
    length = 8

    def __iter__(self):
        for _ in range(4):
            yield torch.zeros(2, self.length)


def lengths(prepared):
    data, seen = Growing(), []
    loader = DataLoader(data, batch_size=None)
    for number, batch in enumerate(host.prepare(loader) if prepared else loader):
        seen.append(batch.shape[1])
        if number == 1:
            data.length = 16
    return seen


def gathered(*sizes):
    sampler = Sizes(*sizes, batch_size=4)
    loader = host.prepare(DataLoader(torch.arange(10), batch_sampler=sampler))
    return sum(len(host.gather_for_metrics(batch)) for batch in loader)


sizes = 8, 4, 2, 8, 4, 2
even = dealt(Sizes(*sizes, batch_size=8))
uneven = dealt(Sizes(*sizes, batch_size=8), even_batches=False)
whole = dealt(Sizes(*sizes), even_batches=False)
plain, prepared = lengths(False), lengths(True)
kept = [gathered(4, 4, 2), gathered(4, 6), gathered(2, 8)]
print(f"with batch_size: {even}, and with even_batches=False {uneven}")
print(f"without: {whole}")
print(f"lengths: {plain}, prepared {prepared}")
print("batches of [4, 4, 2] rows: {} of 10 gathered; of [4, 6]: {} of 10; of [2, 8]: {} of 10".format(*kept))
same = (
    (even, uneven) == ([[2], [8, 8]], [[2, 4], [8, 2]])
    and whole == [[8, 2, 4], [4, 8, 2]]
    and (plain, prepared) == ([8, 8, 16, 16], [8, 8, 8, 16])
    and kept == [10, 6, 4]
)
sys.exit(0 if same else 1)
PYTHON

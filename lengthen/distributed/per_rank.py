"""What each rank of a run stores and sends, from the model's arithmetic.

Symbols: W ranks, P parameters of s bytes, R of them outside the layers, p micro-batches of a step.

    replicated   stores 3 P s (Muon: 2 of the layers' matrices), and gradients, P s, between
                 micro-batches; sends 2 (W-1)/W P s
    sharded      stores 3 P s / W, and gradients, P s, between micro-batches where there are
                 several; sends (W-1)/W s (p (2 P - R) + P)

Replicated, one all-reduce ends a step. Sharded, each micro-batch gathers all weights for its
forward pass and those of the layers once more for its backward pass, and the last one scatters the
gradients. Shards are rows of matrices, of which a rank has ceil(rows / W): the padding counts, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lengthen.config.schema import Config
from lengthen.data.stream import accumulation_steps
from lengthen.distributed.memory import mask_of
from lengthen.model import cost
from lengthen.util.tables import Table

STATE = 3  # tensors of each parameter between steps: weight and two moments
GATHERED_LAYERS = 2  # whole at a time: the one that computes, and the next one on its way
COLUMNS = ("ranks", "peak", "state", "accumulated", "gathered", "activations", "sent")
NOTE = (
    "Of the rank with the most data, in GB, at full length. Peak is that of a step, without "
    "PyTorch itself and its allocator's overhead; sent is by rings, in a step. The plan's own "
    "memory is that of one process on a CPU, with its heap's overhead."
)


@dataclass(frozen=True)
class RankLoad:
    """What one rank stores at the peak of a step, and what it sends in one, in bytes."""

    state: int  # weights and moments
    accumulated: int  # gradients, between micro-batches
    gathered: int  # weights that are whole for a while
    activations: int  # of a micro-batch
    gradients: int  # after the backward pass
    gather_sent: int  # so that other ranks have weights, or sums of gradients, whole
    reduce_sent: int  # so that some rank has the sum of all gradients, or of a part of them

    @property
    def peak(self) -> int:
        """All that is in memory at once, where that is most."""
        # Gradients come as activations go.
        varying = max(self.accumulated + self.activations, self.gradients)
        return self.state + self.gathered + varying

    @property
    def sent(self) -> int:
        """Bytes that the rank sends in a step."""
        return self.gather_sent + self.reduce_sent


def load(config: Config, micro_tokens: int, world_size: int, *, sharded: bool) -> RankLoad:
    """Return the load of the rank that has most, of at least two.

    Raises SettingError for a missing vocabulary.
    """
    model, rows, length = config.model, config.batch.rows, config.model.length
    size = cost.FLOAT * (2 if config.run.precision == "fp64" else 1)
    count = accumulation_steps(rows, world_size, length, micro_tokens)
    rows_of_rank = -(-rows // world_size)
    tokens = -(-rows_of_rank // count) * length  # of the largest micro-batch
    recompute, on_cpu = config.run.recompute, config.run.device == "cpu"
    activations = size * cost.activations(model, tokens, recompute=recompute, on_cpu=on_cpu)
    activations += on_cpu * mask_of(config, tokens)
    if not sharded:
        whole = size * cost.parameters(model)
        ring = whole * (world_size - 1) // world_size
        less = size * cost.matrices(model) if config.optimizer.kind == "muon" else 0
        return RankLoad(STATE * whole - less, whole, 0, activations, whole, ring, ring)
    layer = size * _padded(cost.layer_shapes(model), world_size)
    root = size * _padded(cost.root_shapes(model), world_size)
    whole = model.layers * layer + root
    ring, root_ring = (part * (world_size - 1) // world_size for part in (whole, root))
    return RankLoad(
        state=STATE * whole // world_size,
        accumulated=whole if count > 1 else 0,
        gathered=root + GATHERED_LAYERS * layer,
        activations=activations,
        gradients=whole // world_size,
        gather_sent=count * (2 * ring - root_ring),
        reduce_sent=ring,
    )


def _padded(shapes: Iterator[tuple[int, ...]], world_size: int) -> int:
    """Return the numbers in all shapes, first dimensions rounded up to multiples of the ranks."""
    return sum(-(-rows // world_size) * world_size * prod(rest) for rows, *rest in shapes)


def table(name: str, config: Config, micro_tokens: int, worlds: list[int]) -> Table:
    """Return the loads for numbers of ranks, replicated and sharded."""
    rows = []
    for world_size in worlds:
        for sharded in (False,) if config.optimizer.kind == "muon" else (False, True):
            one = load(config, micro_tokens, world_size, sharded=sharded)
            figures = [f"{getattr(one, column) / 1e9:.2f}" for column in COLUMNS[1:]]
            rows.append((f"{world_size:,} {'sharded' if sharded else 'replicated'}", *figures))
    return Table(f"{name}: load of a rank", COLUMNS, tuple(rows), NOTE)

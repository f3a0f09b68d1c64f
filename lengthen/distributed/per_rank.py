"""What each rank of a run holds and sends, from the model's arithmetic.

Symbols: W ranks, P parameters of s bytes, R of them outside the layers, p passes of a step.

    replicated   keeps 3 P s, and gradients, P s, from pass to pass; sends 2 (W-1)/W P s
    sharded      keeps 3 P s / W, and gradients, P s, from pass to pass where there are several;
                 sends (W-1)/W s (p (2 P - R) + P)

Replicated, one all-reduce ends a step. Sharded, each pass gathers all weights for its forward and
those of the layers once more for its backward pass, and the last pass scatters the gradients.
Shards are rows of matrices, of which a rank has ceil(rows / W): what that pads, travels too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from lengthen.config.schema import Config, Model
from lengthen.data.loader import accumulation_steps
from lengthen.model import cost
from lengthen.util.tables import Table

KEPT = 3  # of every parameter between steps: weight and two moments
GATHERED_LAYERS = 2  # whole at a time: the one at work, and the next one, which is on its way
NOTE = (
    "Of the rank that has most, in GB, at full length. Held is the peak of a step, beside PyTorch "
    "itself and what its allocator wastes; sent is by rings, in a step."
)


@dataclass(frozen=True)
class Load:
    """What one rank holds at the peak of a step, and what it sends in one, in bytes."""

    kept: int  # weights and moments
    carried: int  # gradients, from pass to pass
    gathered: int  # weights that are whole for a while
    activations: int  # of a pass
    gradients: int  # behind the backward pass
    gathering: int  # sent so that others have weights, or sums of gradients, whole
    reducing: int  # sent so that somebody has the sum of all gradients, or of a part of them

    @property
    def held(self) -> int:
        """All that is there at once, where that is most."""
        # Gradients come as activations go.
        return self.kept + self.gathered + max(self.carried + self.activations, self.gradients)

    @property
    def sent(self) -> int:
        """Bytes that the rank sends in a step."""
        return self.gathering + self.reducing


@dataclass(frozen=True)
class _Parameters:
    """Numbers of parameters, as they are or with what shards pad."""

    layer: int
    root: int  # both tables and the last norm
    layers: int

    @property
    def all(self) -> int:
        """Those of the whole model."""
        return self.layers * self.layer + self.root


def load(config: Config, micro_tokens: int, world_size: int, *, sharded: bool) -> Load:
    """Return the load of the rank that has most; raises SettingError for a missing vocabulary.

    `world` must be above 1.
    """
    model, rows, length = config.model, config.batch.rows, config.model.length
    size = cost.FLOAT * (2 if config.run.precision == "fp64" else 1)
    count = accumulation_steps(rows, world_size, length, micro_tokens)
    share = -(-rows // world_size)
    tokens = -(-share // count) * length  # of the largest pass
    recompute, on_cpu = config.run.recompute, config.run.device == "cpu"
    numbers = cost.activations(model, tokens, recompute=recompute, on_cpu=on_cpu)
    activations = size * numbers
    if not sharded:
        whole = size * cost.parameters(model)
        ring = whole * (world_size - 1) // world_size
        return Load(KEPT * whole, whole, 0, activations, whole, ring, ring)
    padded = _padded(model, world_size)
    whole = size * padded.all
    ring = whole * (world_size - 1) // world_size
    root = size * padded.root * (world_size - 1) // world_size
    return Load(
        kept=KEPT * whole // world_size,
        carried=whole if count > 1 else 0,
        gathered=size * (padded.root + GATHERED_LAYERS * padded.layer),
        activations=activations,
        gradients=whole // world_size,
        gathering=count * (2 * ring - root),
        reducing=ring,
    )


def _padded(model: Model, world_size: int) -> _Parameters:
    """Return the parameters with every first dimension rounded up to a multiple of `world`."""

    def padded(shapes: Iterator[tuple[int, ...]]) -> int:
        return sum(-(-first // world_size) * world_size * prod(rest) for first, *rest in shapes)

    return _Parameters(padded(_layer(model.width)), padded(_root(model)), model.layers)


def _layer(width: int) -> Iterator[tuple[int, ...]]:
    for rows, columns in ((3, 1), (1, 1), (4, 1), (1, 4)):  # qkv, out, up, down
        yield rows * width, columns * width
        yield (rows * width,)
    for _ in range(4):  # gains and biases of two norms
        yield (width,)


def _root(model: Model) -> Iterator[tuple[int, ...]]:
    assert model.vocabulary is not None
    yield model.vocabulary, model.width
    yield model.length, model.width
    yield (model.width,)
    yield (model.width,)


def table(name: str, config: Config, micro_tokens: int, worlds: list[int]) -> Table:
    """Return the loads for numbers of ranks, replicated and sharded."""
    rows = []
    for world_size in worlds:
        for sharded in (False, True):
            one = load(config, micro_tokens, world_size, sharded=sharded)
            figures = (one.held, one.kept, one.carried, one.gathered, one.activations, one.sent)
            ranks = f"{world_size:,} {'sharded' if sharded else 'replicated'}"
            rows.append((ranks, *(f"{figure / 1e9:.2f}" for figure in figures)))
    columns = ("ranks", "held", "kept", "carried", "gathered", "activations", "sent")
    return Table(f"{name}: load of a rank", columns, tuple(rows), NOTE)

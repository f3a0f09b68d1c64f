"""What a shape of the GPT costs: parameters, floating-point operations, bytes of memory.

Symbols: layers n, width d, vocabulary V, full length L, rows B, length l.
"""

from collections.abc import Iterator
from math import prod

from lengthen.config.model import Model
from lengthen.util.errors import SettingError

Shape = tuple[int, ...]

FLOAT = 4  # bytes of a float32
COPIES = 4  # numbers held for each parameter: weight, gradient, two moments
CHUNK = 512  # tokens whose logits exist at a time: with more they fall out of a CPU's cache
STREAM_KEEPS = 4  # widths per token that a layer keeps for its backward pass, beside the following
HEAD_KEEPS = 4  # widths per token of all heads: queries, keys, values, what they mix
INNER_KEEPS = {"gelu": 2, "swiglu": 4}  # inner widths per token that the perceptron keeps
ROTATION_KEEPS, QK_NORM_KEEPS = 3, 5  # the same, more; with both no more than with the norm
RMS_KEEPS = 2  # widths per token more with RMSNorm: what its two gains multiply
DROPOUT_KEEPS = 2  # widths per token more with dropout: the masks of the two branches
# Matrices of length * length per head, which only dropout on a CPU brings back: the weights, the
# mask and their product; and in the backward pass the gradient of one of them.
ATTENTION_KEEPS, ATTENTION_NEEDS = 3, 1
BACKWARD_NEEDS = 12  # widths per token at once, in one layer's backward pass and around the layers
CHUNKS = 2  # chunks of logits in memory at once: logits and their logarithms
# Bytes that glibc's heap holds for each byte in use, after several micro-batches fragmented it.
# Larger blocks are mapped each by itself, and where layers are recomputed all of them are
# (`memory.free_large_blocks_at_once`): those are given back whole.
WASTE = 1.6
MAPPED = 2**25  # bytes from which on glibc maps a block by itself


def parameters(shape: Model) -> int:
    """Return the exact number of parameters; of a GPT-2 (V + L + 2) d + n (12 d^2 + 13 d).

    Raises SettingError where the vocabulary is missing, as all of this module does.
    """
    layer, root = (sum(map(prod, shapes(shape))) for shapes in (layer_shapes, root_shapes))
    return shape.layers * layer + root


def layer_shapes(shape: Model) -> Iterator[Shape]:
    """Yield the shapes of a layer's parameters; those of its matrices are (out, in)."""
    for rows, columns in _matrices(shape):
        yield rows, columns
        if shape.bias:
            yield (rows,)
    yield from 2 * _norm_shapes(shape)
    if shape.qk_norm:
        yield from [(shape.head_size,)] * 2


def root_shapes(shape: Model) -> Iterator[Shape]:
    """Yield the shapes of the parameters outside the layers."""
    yield from [(_vocabulary(shape), shape.width)] * (1 if shape.tied else 2)
    if shape.positions == "learned":
        yield shape.length, shape.width
    yield from _norm_shapes(shape)


def _matrices(shape: Model) -> list[tuple[int, int]]:
    """Return the shapes of a layer's matrices, that of `down` last."""
    width, inner, heads = shape.width, shape.inner_width, shape.heads * shape.head_size
    attention = [(heads + 2 * shape.key_heads * shape.head_size, width), (width, heads)]
    return [*attention, *[(inner, width)] * (2 if shape.mlp == "swiglu" else 1), (width, inner)]


def _norm_shapes(shape: Model) -> list[Shape]:
    has_bias = shape.norm == "layer" and shape.bias
    return [(shape.width,)] * (1 + has_bias)


def matrices(shape: Model) -> int:
    """Return how many of the parameters are in the layers' matrices; of a GPT-2 12 n d^2."""
    return shape.layers * sum(prod(one) for one in layer_shapes(shape) if len(one) == 2)


def flops(
    shape: Model, rows: int, length: int, *, recompute: bool = False, causal: bool = False
) -> int:
    """Return the operations of a forward and backward pass: 6 B l (n M + V d) + 12 B n l^2 d.

    M are the numbers in a layer's matrices, of a GPT-2 12 d^2. A multiply and an add are two.
    Matrix products alone count, as `torch.utils.flop_counter` counts them to the last one with
    plain attention and a plain loss. Attention counts at the step's own length and in full, without
    what a kernel saves on the causal half or between documents, or computes twice.

    With `recompute` 2 B l n M + 4 B n l^2 d are done once more: the layers' forward pass up to the
    last product that something after it needs. Their very last one is that with dropout alone.
    With `causal` a token attends to itself and those before it alone: (l + 1) / 2 for l.
    """
    width, tokens = shape.width, rows * length
    *matrices, last = map(prod, _matrices(shape))
    products = 6 * tokens * (shape.layers * (sum(matrices) + last) + _vocabulary(shape) * width)
    attended_twice = length + 1 if causal else 2 * length
    attention = 6 * tokens * attended_twice * shape.layers * shape.heads * shape.head_size
    if not recompute:
        return products + attention
    again = sum(matrices) + (last if shape.dropout > 0 else 0)
    return products + 2 * tokens * shape.layers * again + attention + attention // 3


def memory(shape: Model, micro_tokens: int, *, recompute: bool = False) -> int:
    """Return the bytes that training takes at its peak, in float32, beside Python and torch.

    `micro_tokens` at full length are in one micro-batch. Measured on a CPU over several of them, it
    is 0.92 to 1.16 of the peak, and with `recompute` 1.04 to 1.14.
    """
    peak = _peak(shape, micro_tokens, recompute, on_cpu=True, waste=1 if recompute else WASTE)
    return int(FLOAT * (COPIES * parameters(shape) + peak))


def activations(
    shape: Model, micro_tokens: int, *, recompute: bool = False, on_cpu: bool = True
) -> int:
    """Return the numbers in memory at a micro-batch's peak, parameters and their copies aside.

    With `recompute` a layer keeps its input alone, and all the rest while its own turn lasts.
    """
    return int(_peak(shape, micro_tokens, recompute, on_cpu=on_cpu, waste=1))


def _peak(shape: Model, micro_tokens: int, recompute: bool, *, on_cpu: bool, waste: float) -> float:
    """Return the numbers in memory at the peak of a micro-batch, and those that the heap wastes.

    The logits are gone when the first layer's turn comes: the larger of both makes the peak.
    """

    def wasted(block: int) -> float:
        return waste if FLOAT * block < MAPPED else 1

    vocabulary, width = _vocabulary(shape), shape.width
    drops = shape.dropout > 0
    # Half of what a layer keeps lies in blocks that are one width wide, half in those of four.
    of_stream = (wasted(width * micro_tokens) + wasted(4 * width * micro_tokens)) / 2
    stream = of_stream * width * micro_tokens
    matrix = drops * on_cpu * shape.heads * shape.length * micro_tokens
    matrices = wasted(matrix) * matrix
    layer = (layer_keeps(shape) + DROPOUT_KEEPS * drops) * stream + ATTENTION_KEEPS * matrices
    kept = shape.layers * (stream if recompute else layer)
    backward = recompute * layer + BACKWARD_NEEDS * stream + ATTENTION_NEEDS * matrices
    logits = CHUNKS * min(CHUNK, micro_tokens) * vocabulary + 2 * stream
    # The head's gradient is there twice; a tied one waits for that of the embedding.
    head = 2 * vocabulary * width
    return kept + max(backward + (head if shape.tied else 0), logits + head)


def layer_keeps(shape: Model) -> float:
    """Return the widths per token that a layer without dropout keeps for its backward pass."""
    of_heads: float = HEAD_KEEPS
    rotates, share = shape.positions == "rope", shape.key_heads / shape.heads
    if share == 1:
        of_heads += QK_NORM_KEEPS if shape.qk_norm else ROTATION_KEEPS * rotates
    else:  # shared keys and values, and what they were written out from
        of_heads += 3 + 3 * share if shape.qk_norm else 1 if rotates else 2 * share
    widths = of_heads * shape.heads * shape.head_size
    widths += INNER_KEEPS[shape.mlp] * shape.inner_width
    return STREAM_KEEPS + widths / shape.width + RMS_KEEPS * (shape.norm == "rms")


def _vocabulary(shape: Model) -> int:
    if shape.vocabulary is None:
        raise SettingError("vocabulary", "is missing; a token store gives it")
    return shape.vocabulary

"""Requests to micro-batches: what begins alike is read once, rows are about equally long.

A row is a tree: a trunk that all of its lines begin with, then each line's own branch. Positions
continue along a branch from where the trunk ends, and no branch reads another, so every token sees
what it would see in a row of its own. The header, which all lines of all rows begin with (the shots
of a task), is read before them, once.

    header | trunk | branch 0 | branch 1 | padding
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

LEAST_HEADER = 32  # tokens; below, reading it again costs less than a mask
LEAST_GAIN = 0.25  # of a line must be spared for it to join a tree
TREE_LIMIT = 1024  # tokens of a tree: the cost of a mask grows with their square
PADDING = -1  # no branch


@dataclass(frozen=True)
class Request:
    """Tokens to score, after tokens to read; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.context
        assert self.continuation

    def fits(self, full_length: int) -> bool:
        """Say whether every token to score has a token before it within the full length."""
        return len(self.continuation) <= full_length

    def is_cut(self, full_length: int) -> bool:
        """Say whether the context is too long to be read whole."""
        return len(self.context) + len(self.continuation) > full_length + 1


@dataclass(frozen=True)
class Line:
    """A request as the model reads it: `targets` follow the last of `tokens`, one each."""

    number: int  # of the request
    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def first(self) -> int:
        """The index of the token that the first target follows."""
        return len(self.tokens) - len(self.targets)


@dataclass(frozen=True)
class Tree:
    """Lines that are read in one row."""

    lines: tuple[Line, ...]
    header: int  # tokens that are read elsewhere
    trunk: int  # the index at which the lines part

    @property
    def size(self) -> int:
        """Tokens of the row."""
        own = sum(len(line.tokens) - self.trunk for line in self.lines)
        return self.trunk - self.header + own


@dataclass(frozen=True)
class PackedBatch:
    """Rows for the model, and where among their tokens, laid end to end, the targets are due."""

    inputs: Ints  # (rows, length)
    positions: Ints  # (rows, length)
    branches: Ints  # (rows, length): 0 is the trunk, PADDING none
    places: Ints  # (targets,)
    targets: Ints  # (targets,)
    numbers: Ints  # (targets,) of the requests
    lines: int

    @property
    def is_plain(self) -> bool:
        """Whether each row is one text, read from its begin."""
        return bool((self.positions[:, 0] == 0).all() and (self.branches <= 0).all())


def lines_of(requests: Sequence[Request], full_length: int) -> tuple[list[Line], list[Line]]:
    """Return the lines of the requests that are read whole, and of those cut from the left."""
    kept: tuple[list[Line], list[Line]] = [], []
    for number, request in enumerate(requests):
        assert request.fits(full_length)
        # The last token is never read: nothing after it is scored.
        tokens = (request.context + request.continuation)[:-1][-full_length:]
        kept[request.is_cut(full_length)].append(Line(number, tokens, request.continuation))
    return kept


def header_of(lines: Sequence[Line]) -> tuple[int, ...]:
    """Return what all lines begin with, where it is long enough to be read before them."""
    if len(lines) < 2:
        return ()
    least, most = min(line.tokens for line in lines), max(line.tokens for line in lines)
    # Tokens whose successors are asked for belong to the rows.
    size = min(_common(least, most), min(line.first for line in lines))
    return least[:size] if size >= LEAST_HEADER else ()


def pack(lines: Sequence[Line], header: int, micro_tokens: int) -> Iterator[PackedBatch]:
    """Yield micro-batches of about `micro_tokens` each, the longest rows first."""
    trees = list(_trees(lines, header, min(micro_tokens, TREE_LIMIT)))
    # Longest first: what does not fit into memory shows at once.
    trees.sort(key=lambda tree: -tree.size)
    while trees:
        count = max(1, micro_tokens // trees[0].size)
        yield _laid(trees[:count])
        trees = trees[count:]


def _trees(lines: Sequence[Line], header: int, limit: int) -> Iterator[Tree]:
    """Join neighbours in the order of their tokens, in which what begins alike stands together."""
    tree: Tree | None = None
    for line in sorted(lines, key=lambda line: line.tokens):
        alone = Tree((line,), header, trunk=len(line.tokens))
        if tree is None:
            tree = alone
            continue
        trunk = min(tree.trunk, _common(tree.lines[-1].tokens, line.tokens))
        joined = Tree((*tree.lines, line), header, trunk)
        gain = tree.size + alone.size - joined.size
        if gain >= LEAST_GAIN * alone.size and joined.size <= limit:
            tree = joined
        else:
            yield tree
            tree = alone
    if tree:
        yield tree


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Return how many tokens both begin with."""
    shorter = min(len(left), len(right))
    for index in range(shorter):
        if left[index] != right[index]:
            return index
    return shorter


def _laid(trees: Sequence[Tree]) -> PackedBatch:
    shape = len(trees), max(tree.size for tree in trees)
    inputs, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    branches = np.full(shape, PADDING, np.int64)
    places: list[Ints] = []
    for row, tree in enumerate(trees):
        trunk = tree.trunk - tree.header
        inputs[row, :trunk] = tree.lines[0].tokens[tree.header : tree.trunk]
        positions[row, :trunk] = np.arange(tree.header, tree.trunk)
        branches[row, :trunk] = 0
        end = trunk
        for branch, line in enumerate(tree.lines, start=1):
            own = slice(end, end + len(line.tokens) - tree.trunk)
            inputs[row, own] = line.tokens[tree.trunk :]
            positions[row, own] = np.arange(tree.trunk, len(line.tokens))
            branches[row, own] = branch
            indices = np.arange(line.first, len(line.tokens))
            shift = np.where(indices < tree.trunk, -tree.header, end - tree.trunk)
            places.append(row * shape[1] + indices + shift)
            end = own.stop
    lines = [line for tree in trees for line in tree.lines]
    return PackedBatch(
        inputs,
        positions,
        branches,
        np.concatenate(places),
        np.concatenate([np.asarray(line.targets) for line in lines]),
        np.repeat([line.number for line in lines], [len(line.targets) for line in lines]),
        len(lines),
    )

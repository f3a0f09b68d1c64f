"""Requests to micro-batches: what begins alike is read once, rows are about equally long.

A row is a tree: a trunk that all of its lines begin with, then each line's own branch. Positions
continue along a branch from where the trunk ends, and no branch reads another, so every token sees
what it would see in a row of its own.

    trunk | branch 1 | branch 2 | padding
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

LEAST_GAIN = 0.25  # of a line must be spared for it to join a tree
TREE_LIMIT = 1024  # tokens of a tree: the cost of a mask grows with their square
LONG = 1.25  # a tree of longer lines, such as items with shots, may have so many times their tokens
PADDING = -1  # no branch


@dataclass(frozen=True)
class Request:
    """Tokens to score, after tokens to read; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    is_joined: bool = False  # both in one text have other tokens in the context's place

    def __post_init__(self) -> None:
        assert self.context
        assert self.continuation

    def fits(self, full_length: int) -> bool:
        """Say whether every token to score has a token before it within the full length."""
        return len(self.continuation) <= full_length

    def is_truncated(self, full_length: int) -> bool:
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
    trunk: int  # the index at which the lines part

    @property
    def size(self) -> int:
        """Tokens of the row."""
        return self.trunk + sum(len(line.tokens) - self.trunk for line in self.lines)


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
        """Whether each row is one text."""
        return bool((self.branches <= 0).all())


def pack(requests: Sequence[Request], full_length: int, micro_tokens: int) -> Iterator[PackedBatch]:
    """Yield micro-batches of about `micro_tokens` each, the longest rows first.

    A context that is too long loses its left end. Every request must fit.
    """
    assert all(request.fits(full_length) for request in requests)
    # The last token is never read: nothing after it is scored.
    texts = ((each.context + each.continuation)[:-1][-full_length:] for each in requests)
    lines = [
        Line(number, tokens, request.continuation)
        for number, (tokens, request) in enumerate(zip(texts, requests, strict=True))
    ]
    # Longest first: what does not fit into memory shows at once.
    trees = sorted(_trees(lines, micro_tokens), key=lambda tree: -tree.size)
    while trees:
        count = max(1, micro_tokens // trees[0].size)
        yield _lay_out(trees[:count])
        trees = trees[count:]


def _trees(lines: Sequence[Line], micro_tokens: int) -> Iterator[Tree]:
    """Join neighbours in the order of their tokens, in which what begins alike stands together."""
    tree: Tree | None = None
    for line in sorted(lines, key=lambda line: line.tokens):
        alone = Tree((line,), trunk=len(line.tokens))
        if tree is None:
            tree = alone
            continue
        pairs = zip(tree.lines[-1].tokens, line.tokens, strict=False)
        trunk = min(tree.trunk, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
        joined = Tree((*tree.lines, line), trunk)
        gain = tree.size + alone.size - joined.size
        limit = min(micro_tokens, max(TREE_LIMIT, LONG * alone.size))
        if gain >= LEAST_GAIN * alone.size and joined.size <= limit:
            tree = joined
        else:
            yield tree
            tree = alone
    if tree:
        yield tree


def _lay_out(trees: Sequence[Tree]) -> PackedBatch:
    shape = len(trees), max(tree.size for tree in trees)
    inputs, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    branches = np.full(shape, PADDING, np.int64)
    places: list[Ints] = []
    for row, tree in enumerate(trees):
        trunk = end = tree.trunk
        inputs[row, :trunk] = tree.lines[0].tokens[:trunk]
        positions[row, :trunk] = np.arange(trunk)
        branches[row, :trunk] = 0
        for branch, line in enumerate(tree.lines, start=1):
            own = slice(end, end + len(line.tokens) - trunk)
            inputs[row, own] = line.tokens[trunk:]
            positions[row, own] = np.arange(trunk, len(line.tokens))
            branches[row, own] = branch
            indices = np.arange(line.first, len(line.tokens))
            places.append(row * shape[1] + indices + np.where(indices < trunk, 0, end - trunk))
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

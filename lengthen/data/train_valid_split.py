"""Which text is for validation, and which the tokenizer learns from: chosen by seed, in one look.

Each choice is a hash of the seed and a number, so it depends on the documents and their order
alone, not on files, formats or cores.
"""

import heapq
from dataclasses import dataclass, replace

from lengthen.core.shuffle import sub_seed
from lengthen.data.readers import DocumentPart, Parts

FEW = 20  # documents; fewer are cut in two, each
SAMPLE_LIMIT = 100 * 10**6  # bytes of text that a tokenizer learns from


@dataclass(frozen=True)
class SplitRule:
    """The rule that splits a corpus into a training and a validation part."""

    seed: int
    share: float  # of the documents, roughly; of each document's characters where there are few
    always: int | None = None  # a document that validates in any case, so that one does
    heads: tuple[int, ...] = ()  # where there are few: characters of each that surely train
    mark: str = "\n"  # a document is cut after one; none: anywhere

    def is_valid(self, number: int) -> bool:
        """Say whether document `number` is for validation."""
        return number == self.always or _chance(self.seed, "valid", number) < self.share


def choose_split_rule(parts: Parts, share: float, seed: int) -> SplitRule:
    """Look at as many documents as it takes to know the rule: all, where there are few.

    With FEW documents or more each is for validation with probability `share`, and if chance
    takes none, the one nearest to it is. With fewer, the end of each is, from a line end on; if no
    end has one, from a space on; if none has that either, to the character.
    """
    if share == 0:
        return SplitRule(seed, share)
    few: list[_CutPlaces] = []
    places = _CutPlaces()
    lowest: tuple[float, int] = (1.0, 0)
    number = 0
    for part in parts:
        places = places.after(part)
        if not part.is_last:
            continue
        if number < FEW:
            few.append(places)
        lowest = min(lowest, (_chance(seed, "valid", number), number))
        number, places = number + 1, _CutPlaces()
        if number >= FEW and lowest[0] < share:
            break  # enough are there, and one of them validates by chance already
    if number >= FEW:
        return SplitRule(seed, share, always=lowest[1])
    heads = tuple(one.size - round(one.size * share) for one in few)
    pairs = [(one, max(1, head)) for one, head in zip(few, heads, strict=True)]
    mark = ""  # or what some document has after its head, so that some text validates
    if any(one.line >= head for one, head in pairs):
        mark = "\n"
    elif any(one.space >= head for one, head in pairs):
        mark = " "
    return SplitRule(seed, share, heads=heads, mark=mark)


@dataclass(frozen=True)
class _CutPlaces:
    """Where a document may be cut: characters before the last places inside of it."""

    size: int = 0
    line: int = 0
    space: int = 0

    def after(self, part: DocumentPart) -> "_CutPlaces":
        """Return the places with those in the document's next part."""
        inside = len(part.text) - part.is_last  # after the last character there is nothing to cut
        line, space = (part.text.rfind(mark, 0, inside) + 1 for mark in "\n ")
        return _CutPlaces(
            size=self.size + len(part.text),
            line=self.size + line if line else self.line,
            space=self.size + space if space else self.space,
        )


def split_documents(parts: Parts, rule: SplitRule) -> Parts:
    """Send every part to training or to validation."""
    if rule.heads:
        yield from _cut_documents(parts, rule.heads, rule.mark)
        return
    number = 0
    for part in parts:
        yield replace(part, split="valid") if rule.is_valid(number) else part
        number += part.is_last


def _cut_documents(parts: Parts, heads: tuple[int, ...], mark: str) -> Parts:
    """Cut each document after the first mark that leaves at least its head for training."""
    remaining = iter(heads)
    left, is_cut = next(remaining), False  # characters of the head to come
    for part in parts:
        cut = part.text.find(mark, max(0, left - len(mark))) + len(mark)
        if is_cut:
            yield replace(part, split="valid")
        elif cut <= 0 or (cut == len(part.text) and part.is_last):
            yield part
        else:
            is_cut = True
            yield replace(part, text=part.text[:cut], is_last=True)
            if cut < len(part.text):
                yield replace(part, text=part.text[cut:], split="valid")
        left -= len(part.text)
        if part.is_last:
            left, is_cut = next(remaining, 0), False


def sample_texts(parts: Parts, seed: int, limit: int = SAMPLE_LIMIT) -> list[str]:
    """Return a sample of at most `limit` bytes: all parts, or those with the lowest hashes."""
    heap: list[tuple[float, str]] = []  # the highest hash first, to be dropped first
    size = 0
    for number, part in enumerate(parts):
        heapq.heappush(heap, (-_chance(seed, "sample", number), part.text))
        size += len(part.text.encode())
        # Bottom-k sampling: what stays depends on the hashes, not on when the limit was met.
        while size > limit:
            size -= len(heapq.heappop(heap)[1].encode())
    return [text for _, text in heap]


def _chance(seed: int, purpose: str, number: int) -> float:
    return sub_seed(seed, purpose, number) / 2.0**63

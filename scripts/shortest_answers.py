"""Print how often the answer with the fewest tokens is right: a guess that asks no model.

    python scripts/shortest_answers.py RUN

RUN lends its tokenizer. Of several shortest answers each counts its share.
"""

import sys
from pathlib import Path
from statistics import fmean

from tokenizers import Tokenizer

from lengthen.evaluation import sets
from lengthen.evaluation.prompts import QUESTIONS, Item
from lengthen.run.directory import RunPaths


def share(item: Item, tokenizer: Tokenizer) -> float:
    """Return the chance that the right answer is drawn from the shortest ones."""
    sizes = [len(tokenizer.encode(answer).ids) for _, answer in item.pairs]
    return (sizes[item.right] == min(sizes)) / sizes.count(min(sizes))


if __name__ == "__main__":
    tokenizer = Tokenizer.from_file(str(RunPaths(Path(sys.argv[1])).tokenizer))
    for name, question in QUESTIONS.items():
        if question.normalised and sets.is_found(question.place, None):
            items = [question.item(row) for row in sets.load(question.place, None).rows]
            print(f"{name}: {fmean(share(item, tokenizer) for item in items):.3f}")

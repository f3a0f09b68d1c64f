"""Does the warmup help here? python examples/comparison.py STORE OUT [TOKENS].

STORE is what `lengthen prepare` wrote. Two variants are trained with three seeds each, every
run in a process of its own; after a stop the same command continues.
"""

import sys

import lengthen

store, out, *more = sys.argv[1:]
question = {
    "recipe": "laptop-2min",
    "budget": {"tokens": int(more[0]) if more else 1_000_000},
    "baseline": "full length",
    "seeds": [0, 1, 2],
    "variants": {
        "full length": {"pacing": {"kind": "constant"}},
        "lengthened": {},  # the pacing of the recipe
    },
}
print(lengthen.compare(question, out, data=store))

"""Compare models on the tokens beyond a position, each in windows of its own full length.

    python examples/context/beyond.py 512 runs/long runs/old [STORE]

The tokens beyond the position count, in every sequence of the first model's length in the
validation part; the second model reads the same tokens in windows. STORE may be another one with
their tokenizer.
"""

import sys
from pathlib import Path

from lengthen.evaluation.models import find_models, load, require_same_tokenizer
from lengthen.evaluation.positions import losses
from lengthen.evaluation.results import standard_error

position, *runs = int(sys.argv[1]), *map(Path, sys.argv[2:4])
named = find_models(runs, None)
store = named[0].store(Path(sys.argv[4]) if sys.argv[4:] else None)
models = [load(model, None) for model in named]
full_length = models[0].length
sequences = (len(store.valid) - 1) // full_length
means = []
for model in models:
    require_same_tokenizer(store, model)
    windows = sequences * full_length // model.length
    found = losses(model, store.valid, model.length, windows, lambda tokens: None)
    means.append(found.reshape(sequences, full_length)[:, position:].mean(axis=1))
    words = f"{model.name}: loss {means[-1].mean():.4f} beyond position {position}"
    print(f"{words}, read in windows of {model.length}")
less = means[0] - means[1]
error = standard_error(less.tolist()) or 0
print(f"difference {less.mean():+.4f} ± {error:.4f}, over {sequences} sequences of {full_length}")

#!/usr/bin/env bash
# tokenizers 0.23.3: training twice on the same text gives two tokenizers. WordPiece, and a BPE with a prefix
# or a suffix for parts of words, number the marked letters in the order in which a hash table gives the words,
# which is another each time. All ids after them move. Where two pairs are equally frequent, ids decide which
# is merged, so that the pieces differ, too. There is no seed to set, and one thread does not help. Whoever
# trains again on the same text instead of keeping the file gets ids that are all valid and fit neither model
# nor tokens. A BPE without prefix and suffix is the same each time.
#
# Output seen (five trainings on the same 500 words, one thread; are the ids the same, are the pieces?):
#   BPE: ids True, pieces True
#   BPE with suffix: ids False, pieces True
#   BPE with prefix: ids False, pieces False
#   WordPiece: ids False, pieces False
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
TOKENIZERS_PARALLELISM=false RAYON_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import random
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

draw = random.Random(1)
WORDS = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(500)]
SIZE = {"vocab_size": 150, "show_progress": False}
SUFFIX, PREFIX = {"end_of_word_suffix": "</w>"}, {"continuing_subword_prefix": "##"}
KINDS = {
    "BPE": (models.BPE, {}, trainers.BpeTrainer(**SIZE)),
    "BPE with suffix": (models.BPE, SUFFIX, trainers.BpeTrainer(**SIZE, **SUFFIX)),
    "BPE with prefix": (models.BPE, PREFIX, trainers.BpeTrainer(**SIZE, **PREFIX)),
    "WordPiece": (models.WordPiece, {"unk_token": "?"}, trainers.WordPieceTrainer(**SIZE)),
}


def trained(model, options, trainer):
    """Return the ids of all pieces."""
    tokenizer = Tokenizer(model(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    return tokenizer.get_vocab()


found = {}
for name, kind in KINDS.items():
    first, *others = (trained(*kind) for _ in range(5))
    found[name] = all(one == first for one in others), all(one.keys() == first.keys() for one in others)
    print("{}: ids {}, pieces {}".format(name, *found[name]))
same = list(found.values()) == [(True, True), (False, True), (False, False), (False, False)]
sys.exit(0 if same else 1)
PYTHON

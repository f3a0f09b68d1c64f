#!/usr/bin/env bash
# tokenizers 0.23.3: `encode_special_tokens = True` does not keep text from becoming a special token.
#
# The setting stops the library from looking for special tokens in front of the model. The model
# still has their spellings in its vocabulary. A model that looks up or scores whole words (Unigram,
# WordLevel) finds them there, so the text "</s>" becomes the special id. A byte-level BPE reaches
# it by merges alone, and does not. Who joins documents of untrusted text with a separator and relies
# on the setting can have borders forged.
#
# Seen: Unigram True, WordLevel True, BPE False. Exits 1 if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXT = ["The cat sat on the mat, and a </s> lay there."] * 50
SPECIAL = {"special_tokens": ["<unk>", "</s>"], "show_progress": False}
KINDS = {
    "Unigram": (
        models.Unigram(), pre_tokenizers.Metaspace(),
        trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", **SPECIAL),
    ),
    "WordLevel": (
        models.WordLevel(unk_token="<unk>"), pre_tokenizers.WhitespaceSplit(),
        trainers.WordLevelTrainer(**SPECIAL),
    ),
    "BPE": (
        models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False),
        trainers.BpeTrainer(vocab_size=300, **SPECIAL),
    ),
}
seen = {}
for name, (model, splitter, trainer) in KINDS.items():
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode("a </s> b", add_special_tokens=False).ids
    seen[name] = tokenizer.token_to_id("</s>") in ids
print(seen)
raise SystemExit(seen != {"Unigram": True, "WordLevel": True, "BPE": False})
PYTHON

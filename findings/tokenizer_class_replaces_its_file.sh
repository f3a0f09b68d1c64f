#!/usr/bin/env bash
# transformers 5.24.0: AutoTokenizer reads vocabulary and merges from a tokenizer.json and builds some of
# the rest anew, by the name of a class. A GPT2Tokenizer has GPT-2's way of splitting text and no
# normalizer, a Qwen2Tokenizer has Qwen's of both, whatever the file says. The name comes from
# tokenizer_config.json, or, where that has none, from the model_type in config.json. The ids are valid,
# decode to the text, and are other ids than those of the same file read by the tokenizers library, as data
# preparation does: a model is evaluated on tokens that it was not trained on. Nothing is warned about.
# transformers 4.57.6 splits as the file says, and so does PreTrainedTokenizerFast as the class in both.
#
# Output seen (a BPE that keeps numbers apart and splits at nothing else; tokens of one text):
#   transformers 5.24.0: file 3, GPT2Tokenizer 14, Qwen2Tokenizer 17, by model_type 14, PreTrainedTokenizerFast 3
#   transformers 4.57.6: file 3, GPT2Tokenizer 3, Qwen2Tokenizer 3, by model_type 3, PreTrainedTokenizerFast 3
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

TEXT = "in the year 1234 of it"
place = Path(sys.argv[1])
place.mkdir()
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    special_tokens=["<|endoftext|>"], show_progress=False,
)
tokenizer.train_from_iterator([TEXT] * 9, trainer)
tokenizer.save(str(place / "tokenizer.json"))
(place / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
counts = {"file": len(tokenizer.encode(TEXT).ids)}
for name in ("GPT2Tokenizer", "Qwen2Tokenizer", None, "PreTrainedTokenizerFast"):
    config = {"eos_token": "<|endoftext|>"} | ({"tokenizer_class": name} if name else {})
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = AutoTokenizer.from_pretrained(place)
    ids = loaded.encode(TEXT)
    assert loaded.decode(ids) == TEXT
    counts[name or "by model_type"] = len(ids)
print(", ".join(f"{name} {count}" for name, count in counts.items()))
file, gpt2, qwen2, by_model, fast = counts.values()
replaced = file == fast and gpt2 == by_model > file and qwen2 > file
kept = len(set(counts.values())) == 1
sys.exit(0 if (replaced if sys.argv[2] == "replaced" else kept) else 1)
PYTHON
for case in "5.24.0 replaced" "4.57.6 kept"; do
    read -r version expected <<< "$case"
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install --quiet --disable-pip-version-check "transformers==$version"
    printf 'transformers %s: ' "$version"
    "$folder/$version/bin/python" "$folder/look.py" "$folder/files-$version" "$expected" 2> "$folder/log" \
        || { rc=$?; tail -3 "$folder/log"; exit $rc; }
done

#!/usr/bin/env bash
# transformers 5.24.0 with tokenizers 0.23.3: `save_pretrained` writes into tokenizer.json how the tokenizer
# was called last. A call sets truncation and padding in the tokenizer itself and leaves them there. After
# `tokenizer(texts, truncation=True, max_length=8)` the file says that every text is cut to 8 tokens; after
# `padding=True`, that texts encoded together are filled up to the longest. Transformers sets both anew in
# each call, so that nothing shows there. The tokenizers library does as the file says, and so does data
# preparation on top of it: datatrove 0.10.1 writes the start of each document alone, or padding between
# documents. Nothing is raised or warned about.
#
# Output seen (documents of 1000, 500 and 2 tokens; what datatrove writes of each with its end, and the tokens
# of the first as Transformers reads the same folder):
#   saved before any call: [1001, 501, 3], Transformers 1000
#   after truncation: [8, 8, 3], Transformers 1000
#   after padding: [1001, 1001, 1001], Transformers 1000
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    numpy==2.4.6 transformers==5.24.0 tokenizers==0.23.3 datatrove==0.10.1 orjson
cat > "$folder/look.py" <<'PYTHON'
import sys

import numpy as np
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.tokens import DocumentTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

END = "<|endoftext|>"
TEXTS = ["x" * 1000, "y" * 500, "zz"]
CALLS = {
    "saved before any call": {},
    "after truncation": {"truncation": True, "max_length": 8},
    "after padding": {"padding": True},
}
letters = sorted(pre_tokenizers.ByteLevel.alphabet())


def saved(name, call):
    """Save the tokenizer after such a call of it."""
    plain = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens([END])
    fast = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END, pad_token=END)
    if call:
        fast(["some", "text"], **call)
    fast.save_pretrained(name)


def prepared(name):
    """Return how many tokens datatrove writes of each document."""
    pages = [Document(text=text, id=str(n)) for n, text in enumerate(TEXTS)]
    step = DocumentTokenizer(
        f"{name}-out", tokenizer_name_or_path=f"{name}/tokenizer.json", eos_token=END,
        shuffle_documents=False,
    )
    LocalPipelineExecutor([pages, step], logging_dir=f"{name}-log").run()
    ends = np.fromfile(f"{name}-out/00000_unshuffled.ds.index", "<u8").astype(int)
    return np.diff(ends, prepend=0).tolist()


found = {}
for number, (words, call) in enumerate(CALLS.items()):
    name = f"tokenizer-{number}"
    saved(name, call)
    found[words] = prepared(name), len(AutoTokenizer.from_pretrained(name)(TEXTS[0]).input_ids)
    print("{}: {}, Transformers {}".format(words, *found[words]))
same = list(found.values()) == [
    ([1001, 501, 3], 1000), ([8, 8, 3], 1000), ([1001, 1001, 1001], 1000),
]
sys.exit(0 if same else 1)
PYTHON
cd "$folder"
venv/bin/python look.py 2> log || { rc=$?; tail -3 log; exit $rc; }

#!/usr/bin/env bash
# datatrove 0.10.1: a document whose text spells the end-of-text token is two documents in the tokens.
#
# DocumentTokenizer puts the token after each document. It encodes the text with special tokens on, so
# that a page about language models that writes "<|endoftext|>" gets the same id in its middle. The
# index beside the file still counts the page as one document: the two ways in which the output says
# where documents end contradict each other. Whoever splits at the token (masks, positions, shuffling)
# trains on other documents than the index has.
#
# Output seen (Python 3.11, Linux, x86-64):
#   documents by the index: 3, by the token: 4
#
# Exits 1 once both agree.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check datatrove==0.10.1 tokenizers==0.23.3 orjson
cd "$place"
cat > pages.py <<'PY'
import sys

import numpy as np
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.tokens import DocumentTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

END = "<|endoftext|>"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens([END])
tokenizer.save("tokenizer.json")
texts = ["a page", f"GPT-2 ends a text with {END} and goes on.", "another"]
pages = [Document(text=text, id=str(n)) for n, text in enumerate(texts)]
step = DocumentTokenizer("out", tokenizer_name_or_path="tokenizer.json", eos_token=END, shuffle_documents=False)
LocalPipelineExecutor([pages, step], logging_dir="log").run()
ends = np.fromfile("out/00000_unshuffled.ds.index", "<u8")
ids = np.fromfile("out/00000_unshuffled.ds", "<u2")
by_token = int((ids == tokenizer.token_to_id(END)).sum())
print(f"documents by the index: {len(ends)}, by the token: {by_token}")
sys.exit(0 if (len(ends), by_token) == (3, 4) else 1)
PY
"$place/venv/bin/python" pages.py 2> log.txt || { rc=$?; tail -3 log.txt; exit $rc; }

#!/usr/bin/env bash
# tokenizers 0.23.3: a tokenizer.json whose added tokens have a gap below their ids is loaded with
# other ids than the file says. The file is valid JSON of the library's own format, the ids are
# unused by the vocabulary, and nothing is raised or warned about: the library numbers added tokens
# on from the size of the vocabulary, whatever their "id" is. A model whose embedding has the row
# that the file names is then asked for another row. Ids of the model's own vocabulary keep their
# gaps, so the same token is kept where it stands there as well.
#
# Output seen (Python 3.11, Linux, x86-64):
#   added_tokens says 9, loaded as 4
#   in the vocabulary as well: 9
#
# Exits 1 once the library keeps the id, or refuses the file.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$place/venv/bin/python" - <<'PY'
import json
import sys

from tokenizers import AddedToken, Tokenizer, models

plain = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "c": 3}, merges=[("a", "b")]))
plain.add_tokens([AddedToken("<speaker>", normalized=False)])
spelled = json.loads(plain.to_str())
assert spelled["added_tokens"][0]["id"] == 4
spelled["added_tokens"][0]["id"] = 9  # as a tokenizer has it whose vocabulary was padded
moved = Tokenizer.from_str(json.dumps(spelled)).token_to_id("<speaker>")
print(f"added_tokens says 9, loaded as {moved}")
spelled["model"]["vocab"]["<speaker>"] = 9
kept = Tokenizer.from_str(json.dumps(spelled)).token_to_id("<speaker>")
print(f"in the vocabulary as well: {kept}")
sys.exit(0 if (moved, kept) == (4, 9) else 1)
PY

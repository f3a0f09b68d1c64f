#!/usr/bin/env bash
# lm-eval 0.4.13 with transformers 5.24.0: the tokens that it scores as an answer need not be the answer's.
# It encodes the context, then context and answer together, and takes what the second has more. That is the
# answer only where the second begins with the first. Nothing is raised or warned about.
#
# 1. A tokenizer that ends each text with "</s>" ends the context with it. The model reads that in place of
#    the answer's first token, which is not scored, and the "</s>" after the answer is. Of an answer of one
#    token nothing is left: all choices get the same figure. `add_bos_token=False` turns it off.
# 2. Where the end of the context and the start of the answer make one token, that part of the answer is not
#    scored, and its figure has a term less than its rivals'.
#
# Output seen (a random model, then one with the same probability for every token):
#   " A" to " D": 4 figures, with </s> 1, which is that of </s> alone
#   after "f(": "] + x" counts as 3 tokens, ") + x" as 2
#
# Exits 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 accelerate==1.15.0 transformers==5.24.0 lm-eval==0.4.13
cat > "$folder/look.py" <<'PYTHON'
import math
import sys

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    special_tokens=["</s>"], show_progress=False,
)
tokenizer.train_from_iterator(["Answer: A B C D f() + x [y] + x"] * 9, trainer)
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, bos_token_id=0, eos_token_id=0, initializer_range=0.2,
)).eval()


def figures(context, answers, ends=False, **options):
    """Return the log-likelihoods that lm-eval gives the answers."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>" if ends else "$A", special_tokens=[("</s>", 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
    host = HFLM(model, backend="causal", tokenizer=fast, device="cpu", **options)
    asked = [Instance("loglikelihood", {}, (context, answer), n) for n, answer in enumerate(answers)]
    return [round(figure, 5) for figure, _ in host.loglikelihood(asked, disable_tqdm=True)]


choices = [" A", " B", " C", " D"]
plain, ended = figures("Answer:", choices), figures("Answer:", choices, ends=True)
off = figures("Answer:", choices, ends=True, add_bos_token=False)
read = tokenizer.encode("Answer:", add_special_tokens=False).ids + [0]
with torch.no_grad():
    end = model(torch.tensor([read])).logits[0, -1].log_softmax(-1)[0].item()
alone = all(abs(figure - end) < 1e-4 for figure in ended)
torch.nn.init.zeros_(model.lm_head.weight)
equal = math.log(tokenizer.get_vocab_size())
counts = [round(-figure / equal, 3) for figure in figures("f(", ["] + x", ") + x"])]
which = "which is that of </s> alone" if alone else "another than that of </s>"
print(f'" A" to " D": {len(set(plain))} figures, with </s> {len(set(ended))}, {which}')
print('after "f(": "] + x" counts as {:g} tokens, ") + x" as {:g}'.format(*counts))
same = len(set(plain)) == 4 and off == plain and len(set(ended)) == 1 and alone and counts == [3, 2]
sys.exit(0 if same else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py" 2> "$folder/log" || { rc=$?; tail -3 "$folder/log"; exit $rc; }

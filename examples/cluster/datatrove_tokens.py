"""Make a token store of a corpus that datatrove tokenizes, without a copy.

    python examples/cluster/datatrove_tokens.py FOLDER_OF_JSONL TOKENIZER.json OUT

On SLURM use SlurmPipelineExecutor, with its time and partition, in place of LocalPipelineExecutor,
and run the last line once its jobs are done.
"""

import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer

import lengthen

if __name__ == "__main__":
    texts, tokenizer, out = sys.argv[1:]
    names = {"tokenizer_name_or_path": tokenizer, "eos_token": "<|endoftext|>"}
    steps = [JsonlReader(texts), DocumentTokenizer(f"{out}/tokens", **names)]
    LocalPipelineExecutor(steps, tasks=2, logging_dir=f"{out}/log").run()
    print(lengthen.prepare(f"{out}/tokens", f"{out}/store", tokenizer=tokenizer, in_place=True))

"""Text to tokens: readers of files, tokenizers, `prepare`, and the store that training reads."""

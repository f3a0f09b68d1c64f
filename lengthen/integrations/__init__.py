"""Length warmup in other loops: plain PyTorch, and the Trainer of Transformers."""

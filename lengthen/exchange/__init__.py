"""Models in and out of Transformers, by tables of its architectures; nothing here imports it."""

"""Models in and out of the format that Transformers has for GPT-2; nothing here imports it."""

"""Sequence length warmup for GPT pre-training: start short, lengthen, count every token."""


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # here, for it takes longer than all the rest

        return version("lengthen")
    raise AttributeError(f"module 'lengthen' has no attribute {name!r}")

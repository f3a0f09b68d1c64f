"""Sequence length warmup for GPT pre-training: start short, lengthen, count every token."""

from importlib.metadata import version

__version__ = version("lengthen")

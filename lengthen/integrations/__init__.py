"""The core inside other loops: plain PyTorch, and the Trainer of Transformers.

Nothing here knows a model. `course` and `log` are what every loop shares; `plain` or `transformers`
is what a user imports, and only the latter needs that package.
"""

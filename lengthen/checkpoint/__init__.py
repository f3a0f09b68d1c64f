"""Checkpoints: written whole, verified when read, restored into a run."""

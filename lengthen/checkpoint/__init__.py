"""Checkpoints: written whole or not at all, hashed in full before one is restored."""

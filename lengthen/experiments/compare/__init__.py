"""Variants, grid, seeds: runs them, and says what can be told apart."""

"""How good a model is: its validation loss, and what published sets say of it."""

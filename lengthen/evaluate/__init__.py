"""How good a model is: validation loss at full length."""

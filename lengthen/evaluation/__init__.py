"""How good a model is: validation loss, published tasks through lm-eval, generated text."""

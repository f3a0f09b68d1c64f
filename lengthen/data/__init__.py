"""Text to tokens (`prepare` and its token store), and the steps and micro-batches made of them."""

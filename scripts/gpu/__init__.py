"""What is run on a machine with a GPU, in one go: `make gpu`, see docs/gpu.md."""

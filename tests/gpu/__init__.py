"""Tests that need a GPU, marked `gpu`; `make gpu` runs them."""

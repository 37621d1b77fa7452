"""Kernels and formulas behind the losses, and their way through chunks. Knows nothing of models."""

"""Compiles every kernel without a GPU: `python -m kernels.aot`. Runs none."""

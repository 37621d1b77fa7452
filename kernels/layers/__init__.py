"""Kernels behind the operations of a decoder's layer. Knows nothing of what callers may pass."""

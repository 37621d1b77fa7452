"""Holds operations to their references here: `python -m kernels.selfcheck`. Times nothing."""

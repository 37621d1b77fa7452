"""Benchmarks of the scorer: who is measured on what, in turns, and what is kept of it."""

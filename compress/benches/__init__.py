"""Benchmarks of the methods, and the rows that are kept."""

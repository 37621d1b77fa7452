"""Rows in eight bits, and who multiplies them. Knows nothing of layers."""

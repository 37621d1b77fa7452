"""Fused operations for ranking, one a file. Knows nothing of models, data or serving."""

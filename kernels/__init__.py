"""Fused operations for ranking; each file holds one operation. Knows nothing of models, data or serving."""

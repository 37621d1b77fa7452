"""The fairness gate: DLPM order over Redis. Knows token counts and block hashes, no models."""

"""Candidates as stored vectors: the encoder that makes them and its training."""

"""Decoders in training: how they start, what they read and what they are asked. Knows no stage."""

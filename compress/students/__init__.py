"""Stages that make and train small ranking decoders."""

"""Stages that leave neurons, KV groups and layers out."""

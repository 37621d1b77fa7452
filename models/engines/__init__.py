"""Runners behind one interface: who turns token ids into label logits."""

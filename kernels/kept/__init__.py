"""Figures as they are written, read and dated. Knows no kernel."""

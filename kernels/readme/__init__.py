"""Tables and plots of kept figures: `python -m kernels.readme`. Measures nothing."""

"""Times the operations beside their rivals: `python -m kernels.bench`. Prints no table."""

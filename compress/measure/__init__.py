"""What a model is worth on a split, and the calibration that goes with it."""

"""The model directory and the forward pass over a packed batch. Knows no training and no HTTP."""

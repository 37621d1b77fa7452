"""The model directory and the forward pass that scores a packed batch. Knows nothing of training or HTTP."""

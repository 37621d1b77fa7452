"""The walk of one model: each stage is a model directory in, a model directory out. Knows nothing of serving."""

"""The walk of one model: a stage is model directory in, model directory out. Knows no serving."""

"""Teachers, labels and students within minutes of one GPU."""

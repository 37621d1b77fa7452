"""Who asks, with which rights, and whose turn it is in this process. Knows no scores."""

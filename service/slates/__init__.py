"""One request as tokens and jobs, and its results as an answer. Knows nothing of who waits."""

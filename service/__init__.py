"""The walk of one request: admission, fairness, scoring, answer. Knows nothing of training."""

"""A decoder that writes why a job fits, and the rule that keeps it to the facts."""

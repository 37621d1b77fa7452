"""Settings, errors, names: what every other room speaks of. Knows no request."""

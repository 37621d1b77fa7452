"""A sentence why a candidate fits a context: its facts, its forms, and the check of both."""

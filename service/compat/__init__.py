"""Requests of other services as native ones, and answers in their words. Knows no HTTP."""

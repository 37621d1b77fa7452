"""Requests and what is generated from them, as texts and tokens. Knows no weights."""

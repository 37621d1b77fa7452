"""Recipes, and the run of one: stages, gates, records and the page that tells of them."""

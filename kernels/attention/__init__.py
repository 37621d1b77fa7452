"""The kernel of paged attention, its layout and its tiles. Knows nothing of caches."""

"""One engine's process: claim, pack, score, settle. Knows no HTTP and no tenant's rights."""

"""How every stage runs: its contract, costs, steps, shards and clock. Knows no stage."""

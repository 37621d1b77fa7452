"""The stage that rounds weights, and its methods."""

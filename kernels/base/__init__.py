"""What every operation stands on: backends, refusals, declarations. Knows no kernel."""

"""An API process towards its gate: jobs out, results back, losses noticed. Knows no slates."""

"""What is asked and answered, and how a bad body is refused. Knows no model."""

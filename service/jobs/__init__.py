"""Work and results as bytes on their way through Redis. Knows no Redis and no model."""

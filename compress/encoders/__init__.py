"""Pre-trained encoders that read pairs, and the teachers made of them."""

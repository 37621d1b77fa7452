"""What the tools know of the operations: operands, shapes, truths. Times nothing."""

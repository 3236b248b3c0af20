"""What is measured: problems, and operations and influences on them."""

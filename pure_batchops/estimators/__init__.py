"""What a matrix is like, from its products alone."""

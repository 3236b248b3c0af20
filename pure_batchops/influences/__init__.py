"""Inverses between the gradients of single samples: one file, one kind of influence."""

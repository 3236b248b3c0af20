"""Inverses of operations, operations again: one file, one method."""

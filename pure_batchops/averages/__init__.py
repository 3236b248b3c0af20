"""Averages of products, and operations averaged over batches."""

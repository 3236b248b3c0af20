"""Influences of training points: each multiplies gradients of single samples with an inverse. One file, one influence."""

"""From a module to plain tensors and a pure forward pass."""

"""The gradients of the single samples: routes to them, kinds of layers, norms."""

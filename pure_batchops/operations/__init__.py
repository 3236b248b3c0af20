"""One file, one matrix: `(params, buffers, batch, v) -> product`."""

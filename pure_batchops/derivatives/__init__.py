"""Derivatives of a function of params as linear maps: J, Jᵀ and the Hessian; and how to add a fast path.

Each of them has two ways: torch.func, whose transforms nest, compile and map over ensembles; and plain autograd
(`plain_autograd.py`), at half the cost for small models, used only when nothing else traces the call.

**Which way did it go?** The logger `pure_batchops` says at debug level what was chosen, and in records of their own what was
refused and why:

    hessian: plain autograd                        hessian: torch.func
    jacobian: plain autograd                       jacobian: torch.func
    jacobian: forward mode of plain autograd       plain autograd refused: …        forward mode refused: …

Forward mode serves single products Jᵀ C J v of any function (`jacobian.product_along`). The pass of reverse mode that gives
the product verifies J v (`forward_mode.refuted`): forward mode that is wrong, or has a gap, is refused.

Of an ensemble, plain autograd records all members at once underneath torch.vmap (`members`). Large members go one by one or
the first alone, see `operations/ensemble.py`, which logs

    ensemble: one by one        ensemble: the first alone, the others together        ensemble without vmap refused: …

A map of plain autograd that later meets a traced v makes the map of torch.func for it, and logs that.

**To add a fast path:**

1. Write the slow one first, with torch.func. It is the specification.
2. Start the fast one with `recording(function, params)`. It gives None where plain autograd may not serve: then take the slow
   one. Wrap each map that takes a v in `plain_unless_traced(fast, slow)`.
3. `tracing.log` the choice in a stable message, list it above, and say why a path is refused by `tracing.refused`.
4. Keep the list "What a fast path owes" in `tracing.py`. `tests/test_recording.py` has a test for each line of it: add the
   operation that uses the path to OPERATIONS there.

Inside `testing.only_torch_func()` all fast paths are off: if a number looks wrong, it tells whether a fast path is the cause.
"""

"""The gradients of single samples, J = (∇ℓ₁, …, ∇ℓₙ)ᵀ: how a route is chosen, and how to add a kind of layer.

**Routes.** `routes.gradients_of_samples(loss, params, buffers, batch, held)` gives a `SampleGradients`. Its `route` is one of

- "held": the n × D numbers of J are formed. Taken if they are at most `held`.
- "by layer": a weight that only known layers use is kept as their inputs and the gradients at their outputs, which are far
  fewer numbers. Taken if the gradients of all other parameters have at most `held` numbers together.
- "unformed": J v and Jᵀ u are derivatives of the losses of the whole batch, and the norms take a chunk of samples at a time.
  Taken otherwise, and where `held` is 0.

The first two come in one of two ways:

- by one pass (`one_pass.py`): plain autograd on the whole batch, if the loss declares that its samples are independent,
  nothing else traces the call, and every parameter is the weight or the bias of a known layer.
- by vmap (`by_vmap.py`): the loss of one sample is mapped over all. Each sample must have the same loss alone as in its batch
  (`mixing.py`). Under torch.compile the route "by layer" is not taken.

A route that is refused is a slower path, never another number. Where no number can be read, under vmap and torch.compile, a
sample whose loss depends on others has NaN. Errors of a loss that vmap cannot map refuse a route; a bug in a kind of layer is
raised.

**Which route did it take?** `testing.gradient_route(loss, params, buffers, batch)` answers. The logger `pure_batchops` says at
debug level what was chosen, and in records of their own what was refused and why:

    gradients of samples: held, by one pass        one pass refused: …
    gradients of samples: held, by vmap            by vmap refused: …
    gradients of samples: by layer, by one pass
    gradients of samples: by layer, by vmap        weights by layer: leaves [0, 2]
    gradients of samples: unformed
    gradient: plain autograd                       gradient: torch.func

These messages are stable: tests read them. `pure_batchops.derivatives` has those of the derivatives.

**To add a kind of layer**, touch three files:

1. `gradients/<kind>.py`: a `layer.LayerKind`. Its `read(args, kwargs)` says where input, weight and bias are. `layer.call_of`
   does that from the names of the function's arguments, so any position and any keyword will do. Return None for a call that
   the kind does not cover (it has an option that you do not handle). Set `has_rows=False` if axis 0 of the input is not the
   axis of the samples. Its `outputs(x, weight, options)` computes the layer without its bias; it must be linear in the weight.
   That is enough. The other fields are faster ways to what the package computes from `outputs`: give them if they pay off.
2. `gradients/kinds.py`: one row, by the function of torch that the layer calls.
3. `tests/test_kinds.py`: one row of KNOWN, a function that calls the layer with a weight `w` and a bias `b`.

As an example, the scale of a group norm. Its weight is the third argument:

    def read(args, kwargs):
        return call_of(F.group_norm, ("input", "num_groups", "weight", "bias", "eps"), args, kwargs)

    def outputs(x, weight, options):                                   # x: (n, *input), input as the function saw it
        return F.group_norm(x.flatten(0, 1), weight=weight, **options).unflatten(0, x.shape[:2])

    KINDS[F.group_norm] = LayerKind(read, outputs)                     # the bias lies along axis 1 of the output

The one pass needs a loss whose samples are known to be independent. `sample_losses` knows it of models made of the modules in
`models/row_by_row.py`.

**The files.** layer (what a kind says, and what follows from it) · linear, convolution, embedding (one kind each) · kinds (the
table) · calls (the calls inside a loss, and who is a weight) · one_pass · flag (was a weight used?), taps, by_vmap · single
(one sample out of a batch) · mixing (does a sample depend on others?) · by_chunks (norms of unformed gradients) · maps (J as
linear maps) · routes (the choice) · sample, norms, mean (the public functions).
"""

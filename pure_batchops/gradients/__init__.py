"""The gradients of single samples, J = (∇ℓ₁, …, ∇ℓₙ)ᵀ: how a route is chosen, and how to add a kind of layer.

**Routes.** `routes.gradients_of_samples(loss, params, buffers, batch, held)` gives a `SampleGradients`. Its `route` is one of

- "held": the n × D numbers of J are formed. Taken if they are at most `held`.
- "by layer": a weight that only known layers use is kept as their inputs and the gradients at their outputs, which are far
  fewer numbers. Taken if the gradients of all other parameters have at most `held` numbers together.
- "unformed": J v and Jᵀ u are derivatives of the losses of the whole batch, and the norms take a chunk of samples at a time.
  Taken otherwise, and where `held` is 0.

The first two come in one of two ways:

- by one pass (`one_pass.py`): plain autograd on the whole batch, if nothing but a vmap over members traces the call. Every
  call of torch is followed (`followed.py`): where its samples lie, what is made of parameters alone, and where those enter the
  batch. Per entry, the input and the gradient at the output are enough. Taken if each parameter enters in a known way. The
  rules of `pure_batchops.sample_axis` prove that samples stay apart; where a call has no rule, a second backward pass decides.
- by vmap (`by_vmap.py`): the loss of one sample is mapped over all.

Under torch.compile the route "by layer" comes from one pass of torch.func with taps (`compiled.py`).

Where J is not held and rows or norms are asked for, `alone.py` takes a chunk of samples at a time by vmap, or one sample
after another if vmap cannot map the loss (control flow that depends on data). The compiler cannot go on after an error, so a
compiled loss must be one that vmap can map.

**One rule for all of them.** ∇ℓᵢ is the gradient of the i-th loss that the batch gave, or the loss is refused. Each sample
must have the same loss alone as in its batch, and Σ rᵢ ∇ℓᵢ with random rᵢ must be the same, which takes one backward pass
over the batch (`sums.py`, `mixing.py`). In single precision a kink may flip by rounding, so a difference is looked at once
more in double precision before it counts. In float32 a difference of 10⁻⁴ of the gradient is seen. Where no number can be
read, under vmap and torch.compile, it is 3 · 10⁻³; samples that do not pass have NaN there, all samples if it is unknown
which. A loss that is declared independent is believed.

A route that is refused is a slower path, never another number. Errors of a loss that vmap cannot map refuse a route; a bug
in a kind of layer is raised.

**Which route did it take?** `testing.gradient_route(loss, params, buffers, batch)` answers. The logger `pure_batchops` says at
debug level what was chosen, and in records of their own what was refused and why:

    gradients of samples: held, by one pass        one pass refused: …
    gradients of samples: held, by vmap            by vmap refused: …
    gradients of samples: by layer, by one pass
    gradients of samples: by layer, by vmap        weights by layer: leaves [0, 2]
    gradients of samples: unformed                 samples apart by calls refused: …
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

**The files.** layer (what a kind says, and what follows from it) · linear, convolution, embedding, matrices, elements,
norm_layers (one kind each) · kinds (the table) · calls (parameters in the calls inside a loss) · tracked, call, followed
(what is known of each tensor) · entry, entries, uses (where parameters enter) · made_of_params (tensors made of parameters) ·
recorded (the losses of the batch, followed), one_pass · traced_layers, compiled (under the compiler) · flag (was a weight
used?), taps, by_vmap · single (one sample out of a batch) · attempts (errors that choose a slower way) · sums (random sums
of gradients) · mixing (does a sample depend on others?) · alone, by_chunks (gradients that are not held) · maps (J as linear
maps) · routes (the choice), route (its name) · sample, norms, mean (the public functions).
"""

"""The products of a model of the zoo, slow and obvious: plain torch.autograd on the model itself.

The numbers of a point are written into the model. Everything but the Hessian runs the model on one sample at a time.
"""

from collections.abc import Mapping

import torch

from tests import dense

LAMBDA = 0.3


def cut(tree, start, size, batch_dim=0):
    """Consecutive samples of a batch of any structure."""
    if isinstance(tree, torch.Tensor):
        return tree.narrow(batch_dim, start, size)
    if isinstance(tree, Mapping):
        return type(tree)({key: cut(value, start, size, batch_dim) for key, value in tree.items()})
    return type(tree)(cut(value, start, size, batch_dim) for value in tree)


def sample(tree, i, batch_dim=0):
    """Sample i of a batch, with a batch axis of length one."""
    return cut(tree, i, 1, batch_dim)


def tensors_in(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, Mapping) else tree
    return [tensor for part in parts for tensor in tensors_in(part)]


def call(model, inputs):
    """The model of its inputs: a dict is keyword arguments, a tuple is arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


class Twin:
    """The products at one point. The model must be nobody else's."""

    def __init__(self, built, params, buffers, *, mixes):
        self.built, self.mixes = built, mixes
        self.model = built.plain if built.plain is not None else built.model
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, numbers in {**params, **buffers}.items():
                own[name].copy_(numbers)
        self.tensors = [own[name].requires_grad_() for name in params]
        self.n = tensors_in(built.batch)[-1].shape[built.batch_dim]
        self.cache = {}

    def once(self, compute):
        """What was computed before, or now."""
        if compute not in self.cache:
            with dense.differentiable_attention():
                self.cache[compute] = compute()
        return self.cache[compute]

    def losses(self, batch, n):
        """The losses of a batch of n samples."""
        b = self.built
        if b.values is not None:
            return b.values(self.model, batch)
        outputs = self.outputs(batch[0])
        return torch.stack([self.criterion(outputs, batch[1], i) for i in range(n)])

    def outputs(self, inputs):
        return self.built.pick(call(self.model, inputs))

    def criterion(self, outputs, targets, i):
        b = self.built
        one = b.wrap(outputs.narrow(b.batch_dim, i, 1))
        return b.criterion(one, sample(targets, i, b.batch_dim)).reshape(())

    def one(self, i):
        return sample(self.built.batch, i, self.built.batch_dim)

    def slope(self):
        return dense.gradient(self.losses(self.built.batch, self.n).mean(), self.tensors, create_graph=True)

    def hessian(self, v):
        slope = self.once(self.slope)
        return torch.stack([dense.gradient(slope @ row, self.tensors).detach() for row in v])

    def gradients(self):
        """(n, D)."""
        if self.mixes:
            values = self.losses(self.built.batch, self.n)
        else:
            values = [self.losses(self.one(i), 1)[0] for i in range(self.n)]
        return dense.sample_gradients(values, self.tensors)

    def gauss_newton(self, v):
        rows = self.once(self.gradients)
        return v @ rows.T @ rows / self.n

    def inverse_harmonic_mean(self, v):
        rows = self.once(self.gradients)
        eye = LAMBDA * torch.eye(rows.shape[1], dtype=rows.dtype)
        return sum(torch.linalg.solve(torch.outer(g, g) + eye, v.T).T for g in rows) / self.n

    def jacobians(self):
        """The output of each sample alone, and its Jacobian, row by row."""
        found, axis = [], self.built.batch_dim
        for i in range(self.n):
            output = self.outputs(self.built.batch[0]).narrow(axis, i, 1) if self.mixes else self.outputs(self.one(i)[0])
            rows = [dense.gradient(entry, self.tensors).detach() for entry in output.reshape(-1)]
            found.append((output.detach(), torch.stack(rows)))
        return found

    def generalized_gauss_newton(self, v):
        total = 0
        for i, (output, jacobian) in enumerate(self.once(self.jacobians)):
            leaf, targets = output.clone().requires_grad_(), sample(self.built.batch[1], i, self.built.batch_dim)
            slope = dense.gradient(self.criterion(leaf, targets, 0), [leaf], create_graph=True)
            curved = torch.stack([dense.gradient(slope @ row, [leaf]).detach() for row in v @ jacobian.T])
            total = total + curved @ jacobian
        return total / self.n

    def sampled_fisher(self, v, noise):
        """The mean over draws tanh(output) + noise of the outer products of gradients of ½ ‖output − draw‖²."""
        total = 0
        for i, (output, jacobian) in enumerate(self.once(self.jacobians)):
            for drawn in noise:
                at = drawn.narrow(self.built.batch_dim, i, 1)
                g = (output - output.tanh() - at).reshape(-1) @ jacobian
                total = total + torch.outer(v @ g, g)
        return total / (self.n * len(noise))

"""The matrices of the operations, dense, slow and obvious: plain torch.autograd, one sample at a time.

Imports neither torch.func nor pure_batchops. The parameters are tensors of the model itself, which the model reads.
"""

import contextlib

import torch


def sample(tree, i, batch_dim=0):
    """Sample i of a batch, with a batch axis of length one."""
    if isinstance(tree, torch.Tensor):
        return tree.narrow(batch_dim, i, 1)
    if isinstance(tree, dict):
        return {key: sample(value, i, batch_dim) for key, value in tree.items()}
    return type(tree)(sample(value, i, batch_dim) for value in tree)


@contextlib.contextmanager
def differentiable_attention():
    """Without the fused kernels, which have no second derivative; parameters that require gradients keep off the fast path."""
    switches = torch.backends.cuda
    before = switches.flash_sdp_enabled(), switches.mem_efficient_sdp_enabled()
    switches.enable_flash_sdp(False)
    switches.enable_mem_efficient_sdp(False)
    try:
        yield
    finally:
        switches.enable_flash_sdp(before[0])
        switches.enable_mem_efficient_sdp(before[1])


def gradient(value, tensors, **options):
    """The gradient as one flat tensor, zeros where value does not depend on a tensor."""
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(tensor).reshape(-1) for tensor in tensors])
    parts = torch.autograd.grad(value, tensors, allow_unused=True, retain_graph=True, **options)
    pairs = zip(parts, tensors, strict=True)
    return torch.cat([(torch.zeros_like(t) if part is None else part).reshape(-1) for part, t in pairs])


def losses(model, criterion, batch, batch_dim=0):
    """The loss of each sample, alone."""
    inputs, targets = batch
    first = targets if isinstance(targets, torch.Tensor) else next(iter(targets.values()))
    with differentiable_attention():
        return [
            criterion(model(sample(inputs, i, batch_dim)), sample(targets, i, batch_dim)).reshape(())
            for i in range(first.shape[batch_dim])
        ]


def hessian(values, tensors):
    """∇² of the mean of the values, row by row."""
    slope = gradient(sum(values) / len(values), tensors, create_graph=True)
    return torch.stack([gradient(entry, tensors).detach() for entry in slope])


def sample_gradients(values, tensors):
    """(n, D)."""
    return torch.stack([gradient(value, tensors).detach() for value in values])


def gauss_newton(values, tensors):
    """The mean of gradient outer products."""
    return sum(torch.outer(g, g) for g in sample_gradients(values, tensors)) / len(values)


def inverse_harmonic_mean(values, tensors, regularization):
    """The mean of inverses, each of them inverted."""
    gradients = sample_gradients(values, tensors)
    eye = torch.eye(gradients.shape[1], dtype=gradients.dtype)
    return sum(torch.linalg.inv(torch.outer(g, g) + regularization * eye) for g in gradients) / len(values)


def generalized_gauss_newton(model, criterion, batch, tensors, batch_dim=0):
    """The mean of Jᵀ H J over the samples, J and H row by row."""
    inputs, targets = batch
    n = targets.shape[batch_dim]
    total = 0
    for i in range(n):
        with differentiable_attention():
            output = model(sample(inputs, i, batch_dim))
        jacobian = torch.stack([gradient(entry, tensors).detach() for entry in output.reshape(-1)])
        leaf = output.detach().requires_grad_()
        slope = gradient(criterion(leaf, sample(targets, i, batch_dim)).reshape(()), [leaf], create_graph=True)
        curvature = torch.stack([gradient(entry, [leaf]).detach() for entry in slope])
        total = total + jacobian.T @ curvature @ jacobian
    return total / n


def block_diagonal(matrix, sizes):
    """The matrix without what is off the blocks of these sizes."""
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return matrix * (owner[:, None] == owner[None, :])

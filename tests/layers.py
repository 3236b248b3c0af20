"""Models of known layers, each built and drawn when a test calls it, and the dense gradients of their samples."""

import torch
from torch import nn
from torch.testing import assert_close

import pure_batchops as pb


class Twice(nn.Module):
    """A linear layer used twice, and an embedding that is the weight of a linear layer too."""

    def __init__(self):
        super().__init__()
        self.layer, self.embedding, self.head = nn.Linear(3, 3), nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.layer(self.layer(self.embedding(x)).tanh()))


def one_layer_twice():
    shared = nn.Linear(3, 3)
    return nn.Sequential(shared, nn.Tanh(), shared, nn.Sigmoid(), shared), torch.randn(5, 3)


def perceptron():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)


def network():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    return model, torch.randn(5, 1, 5, 5)


SINGLE = {
    "linear": lambda: (nn.Linear(3, 4), torch.randn(5, 3)),
    "linear at few positions": lambda: (nn.Linear(6, 7), torch.randn(5, 2, 6)),
    "linear at many positions": lambda: (nn.Linear(2, 3), torch.randn(5, 2, 4, 2)),
    "conv1d": lambda: (nn.Conv1d(2, 3, 2, stride=2, padding=1), torch.randn(5, 2, 5)),
    "conv2d": lambda: (nn.Conv2d(2, 4, 3, padding=(1, 0), dilation=2, groups=2), torch.randn(5, 2, 5, 6)),
    "conv3d": lambda: (nn.Conv3d(1, 2, 2, bias=False), torch.randn(5, 1, 3, 3, 3)),
    "embedding": lambda: (nn.Embedding(6, 3), torch.randint(6, (5, 4))),
    "embedding with padding": lambda: (nn.Embedding(6, 3, padding_idx=-1), torch.randint(6, (5, 4))),
}
LAYERS = {
    **SINGLE,
    "used twice": lambda: (Twice(), torch.randint(6, (5, 4))),
    "attention": lambda: (nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), torch.randn(5, 3, 4)),
}
CHAINS = {
    **SINGLE,
    "perceptron": perceptron,
    "one layer twice": one_layer_twice,
    "changed in place at first": lambda: (
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)),
        torch.randn(5, 3),
    ),
    "network": network,
    "language": lambda: (nn.Sequential(nn.Embedding(6, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randint(6, (5, 4))),
    "padded": lambda: (
        nn.Sequential(nn.Embedding(6, 3, padding_idx=2), nn.Flatten(), nn.Linear(12, 2)),
        torch.arange(20).view(5, 4) % 6,
    ),
    "input changed in place": lambda: (nn.Sequential(nn.ELU(inplace=True), nn.Linear(3, 2)), torch.randn(5, 3)),
}
RECORDED = {
    "changed in place later": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)
    ),
    "a norm's weights": lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
}
NOT_RECORDED = {
    "a transposed convolution": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.Unflatten(1, (1, 4)), nn.ConvTranspose1d(1, 2, 2), nn.Flatten()
    ),
}


class Mixing(nn.Linear):
    """Not the linear layer that its base class is."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


def hooked():
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output - output.mean(0))
    return model


MIXING = {
    "a subclass": lambda: Mixing(3, 2),
    "a subclass inside": lambda: nn.Sequential(Mixing(3, 2)),
    "a hook": hooked,
    "softmax over the samples": lambda: nn.Sequential(nn.Linear(3, 2), nn.Softmax(0)),
}


def head(output, _):
    return output.sin().pow(2).sum() + output.flatten(1)[:, 0].sum()


def problem(model, x):
    """A loss with its params, buffers and batch, in float64; all parameters are drawn again."""
    model = model.double().eval()
    x = x.double() if x.is_floating_point() else x
    for tensor in model.parameters():
        nn.init.normal_(tensor, std=0.5)
    return pb.sample_losses(model, head), *pb.functional_state(model), (x, torch.zeros(len(x)))


def dense_gradients(loss, params, buffers, batch):
    """(n, D), by plain autograd."""
    leaves = [leaf.clone().requires_grad_() for leaf in params.values()]
    losses = loss(dict(zip(params, leaves, strict=True)), buffers, batch)
    rows = [torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True) for value in losses]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def agrees(loss, params, buffers, batch, held):
    """Products by gradients of single samples are those of the dense gradients."""
    gradients = dense_gradients(loss, params, buffers, batch)
    n, numbers = gradients.shape
    v = torch.randn(2, numbers, dtype=torch.float64)
    assert_close(pb.gauss_newton(loss, held=held)(params, buffers, batch, v), v @ gradients.T @ gradients / n)
    inverses = [torch.linalg.inv(torch.outer(g, g) + 0.3 * torch.eye(numbers, dtype=torch.float64)) for g in gradients]
    assert_close(pb.inverse_harmonic_mean(loss, 0.3, held=held)(params, buffers, batch, v), v @ sum(inverses) / n)

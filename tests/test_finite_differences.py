"""A finite difference across a kink is refused, and one of a smooth function is not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import compiles

DIFFERENCE = {"mode": "finite_difference"}


def convolutions(activation, *pooled):
    layers = [nn.Conv2d(3, 8, 3), activation, *pooled, nn.Conv2d(8, 8, 3), activation, nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(72 if pooled else 512, 3)), torch.randn(16, 3, 12, 12) * 2


def perceptron(activation):
    return nn.Sequential(nn.Linear(6, 32), activation, nn.Linear(32, 32), activation, nn.Linear(32, 3)), torch.randn(32, 6)


KINKED = {
    "ReLU": lambda: perceptron(nn.ReLU()),
    "ReLU6": lambda: convolutions(nn.ReLU6()),
    "max pooling": lambda: convolutions(nn.Tanh(), nn.MaxPool2d(2)),
}
SMOOTH = {
    "perceptron": lambda: perceptron(nn.Tanh()),
    "convolutions": lambda: convolutions(nn.GELU(), nn.AvgPool2d(2)),
    "norms": lambda: (nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Softplus(), nn.Linear(16, 3)), torch.randn(32, 6)),
}


def point(kind, dtype, steps=0):
    """Losses, a point, a direction and the exact product; after some steps of training."""
    torch.manual_seed(0)
    model, x = kind()
    y = torch.randint(3, (len(x),))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model, x = model.to(dtype), x.to(dtype)
    loss, (params, buffers) = pb.sample_losses(model, nn.CrossEntropyLoss()), pb.functional_state(model)
    v = {name: torch.randn_like(leaf) for name, leaf in params.items()}
    return loss, (params, buffers, (x, y), v), flat(pb.hessian(loss)(params, buffers, (x, y), v))


def flat(tree):
    return torch.cat([leaf.flatten() for leaf in tree.values()])


@pytest.mark.parametrize("kind", KINKED.values(), ids=KINKED)
def test_default_step_in_double_precision_crosses_no_kink(kind):
    loss, at, exact = point(kind, torch.float64)
    found = flat(pb.hessian(loss, **DIFFERENCE)(*at))
    assert (found - exact).norm() < 1e-6 * exact.norm()


def kinked(params, buffers, x):
    return (x @ params).relu() + (x @ params).square()


def test_default_step_in_double_precision_stops_before_a_kink_a_millionth_ahead():
    w, x, v = torch.tensor([1.0, -1.0]).double(), torch.tensor([[1.0, 1 + 3e-6], [2.0, 1.0]]).double(), torch.ones(2).double()
    assert_close(pb.hessian(kinked, **DIFFERENCE)(w, {}, x, v), pb.hessian(kinked)(w, {}, x, v), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINKED.values(), ids=KINKED)
@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-4, 1e-5])
def test_step_across_kinks_is_refused_or_right(kind, step):
    loss, at, exact = point(kind, torch.float64)
    op = pb.hessian(loss, step=step, **DIFFERENCE)
    pairs = {name: torch.stack([leaf, leaf]) for name, leaf in at[3].items()}
    found = flat({name: leaf[0] for name, leaf in op(*at[:3], pairs).items()})
    if found.isnan().any():
        assert found.isnan().all()
        with pytest.raises(ValueError, match="must not depend on its step, got products of the norms .*take a shorter step="):
            op(*at)
    else:
        assert (found - exact).norm() < 1e-2 * exact.norm()
        assert_close(flat(op(*at)), found)
    if step >= 1e-3:  # of these it is known that they cross some
        assert found.isnan().all()


@pytest.mark.parametrize("kind", KINKED.values(), ids=KINKED)
def test_kinks_in_single_precision_are_refused(kind):
    loss, at, _ = point(kind, torch.float32)
    with pytest.raises(ValueError, match="step=0.0049.*params in double precision"):
        pb.hessian(loss, **DIFFERENCE)(*at)


@pytest.mark.parametrize("kind", SMOOTH.values(), ids=SMOOTH)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-5), (torch.float32, 3e-2)])
@pytest.mark.parametrize("steps", [0, 15])
def test_smooth_functions_are_not_refused(kind, dtype, near, steps):
    loss, at, exact = point(kind, dtype, steps)
    found = flat(pb.hessian(loss, **DIFFERENCE)(*at))
    assert (found - exact).norm() < near * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_product_of_zero_is_no_rounding_that_is_refused(dtype):
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    w, v = torch.linspace(1, 2, 7, dtype=dtype), torch.linspace(-1, 1, 7, dtype=dtype)
    linear = {
        "a sum": lambda params, buffers, x: x @ params,
        "with noise": lambda params, buffers, x: x @ (params.exp().log() * params / params),  # linear but for rounding
        "logarithms": lambda params, buffers, x: (x * (params.square() * 3).log().exp().sqrt()).sum(1),
    }
    for loss in linear.values():
        product = pb.hessian(loss, **DIFFERENCE)(w, {}, x, v)
        assert product.norm() < 32 * torch.finfo(dtype).eps ** (1 / 2 if dtype == torch.float64 else 2 / 3)
        assert_close(pb.hessian(loss, **DIFFERENCE)(w, {}, x, 0 * v), torch.zeros_like(v))


def cubic(params, buffers, x):
    return (params * x).pow(3).sum(1)


def test_step_is_how_far_params_move_and_may_be_a_tensor():
    w, x, v = torch.tensor([3.0, 4.0]).double(), torch.ones(2, 2).double(), torch.tensor([2.0, 0.0]).double()
    seen = []

    def loss(params, buffers, batch):
        seen.append(float((params - w).norm().detach()))
        return cubic(params, buffers, batch)

    pb.hessian(loss, step=1e-3, **DIFFERENCE)(w, {}, x, v)
    assert max(seen) == pytest.approx(1e-3 * (1 + 5))
    steps = torch.tensor([1e-3, 1e-5, 1e-14]).double()
    together = torch.vmap(lambda step: pb.hessian(cubic, step=step, **DIFFERENCE)(w, {}, x, v))(steps)
    assert_close(together[:2], torch.tensor([[36.0, 0.0]] * 2).double())
    assert together[2].isnan().all()


def test_step_that_cannot_serve_is_refused():
    w, x = torch.ones(2), torch.ones(3, 2)
    for mode in ("reverse_over_reverse", "forward_over_reverse", "reverse_over_forward"):
        with pytest.raises(ValueError, match=f"step must be None for mode='{mode}', got 0.1"):
            pb.hessian(cubic, mode=mode, step=0.1)
    with pytest.raises(ValueError, match="step must be positive"):
        pb.hessian(cubic, step=-1.0, **DIFFERENCE)
    with pytest.raises(TypeError, match="step must be a positive number"):
        pb.hessian(cubic, step="small", **DIFFERENCE)
    with pytest.raises(ValueError, match="step must be at least 6e-06 for params of this dtype, got 1e-07"):
        pb.hessian(cubic, step=1e-7, **DIFFERENCE)(w, {}, x, w)


@compiles
def test_compiled_a_step_across_kinks_is_nan():
    w, x, v = torch.tensor([1.0, -1.0]).double(), torch.tensor([[1.0, 1.001], [2.0, 1.0]]).double(), torch.ones(2).double()

    torch._dynamo.reset()
    compiled = torch.compile(
        lambda step: pb.hessian(kinked, step=step, **DIFFERENCE)(w, {}, x, v), fullgraph=True, backend="aot_eager"
    )
    assert compiled(torch.tensor(1e-2).double()).isnan().all()
    assert_close(compiled(torch.tensor(1e-5).double()), pb.hessian(kinked)(w, {}, x, v), rtol=1e-6, atol=1e-6)

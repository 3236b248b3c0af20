"""The module itself runs, with the numbers of params; calls that read or write anything else are refused."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import pure_batchops as pb
from tests import dense
from tests.marks import compiles
from tests.tables import each


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.act = lambda h: torch.tanh(self.a(h))

    def forward(self, x):
        return self.b(self.act(x))


def hooked():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model[0].register_forward_hook(lambda module, inputs, output: output + model[2](output).sum(1, keepdim=True))
    return model


def patched():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    old = model.forward
    model.forward = lambda x: old(x) * 2
    return model


def weight_normed():
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))


class Remembers(nn.Sequential):
    """Keeps what it computed, and registers a buffer, as user code does."""

    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x):
        self.last = super().forward(x)
        self.register_buffer("seen", self.last.mean())
        return self.last


MODELS = {
    "a closure": Closure,
    "a hook": hooked,
    "a replaced forward": patched,
    "a module that remembers": Remembers,
}


def point(model):
    """Params that are not the module's own, buffers, a batch, and v."""
    params, buffers = pb.functional_state(model)
    params = {name: torch.randn_like(leaf) for name, leaf in params.items()}
    batch = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    return params, buffers, batch, torch.randn(sum(leaf.numel() for leaf in params.values()), dtype=torch.float64)


def truth(model, params, batch):
    """The Hessian and the outer products of gradients, by plain autograd on the model at these params."""
    own = dict(model.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in own.items()}
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(params[name])
    values = [(output - target).square().mean() for output, target in zip(model(batch[0]), batch[1], strict=True)]
    tensors = list(own.values())
    result = dense.hessian(values, tensors), dense.gauss_newton(values, tensors)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(before[name])
    return result


@each(MODELS, "build")
def test_products_are_those_of_the_module_at_params(build):
    torch.manual_seed(0)
    model = build().double()
    params, buffers, batch, v = point(model)
    held = {name: vars(module).copy() for name, module in model.named_modules()}
    loss = pb.sample_losses(model, nn.MSELoss())
    pb.hessian(loss)(params, buffers, batch, v)
    for name, module in model.named_modules():
        assert vars(module).keys() == held[name].keys()
        assert all(value is held[name][key] for key, value in vars(module).items())
    hessian, gauss_newton = truth(model, params, batch)
    model._buffers.clear()
    for mode in ("reverse_over_reverse", "forward_over_reverse", "reverse_over_forward"):
        assert_close(pb.hessian(loss, mode=mode)(params, buffers, batch, v), hessian @ v)
    for numbers in (0, 1, 10**6):
        assert_close(pb.gauss_newton(loss, held=numbers)(params, buffers, batch, v), gauss_newton @ v)


@compiles
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_compiled_product_of_a_hook_that_writes_a_weight():
    model = weight_normed().double()
    params, buffers, batch, v = point(model)
    op, weight = pb.hessian(pb.sample_losses(model, nn.MSELoss())), model[0].weight.detach().clone()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    assert_close(compiled(params, buffers, batch, v), op(params, buffers, batch, v))
    assert_close(model[0].weight.detach(), weight)


@compiles
@each(MODELS, "build")
def test_compiled_products_are_too(build):
    torch.manual_seed(0)
    model = build().double()
    if isinstance(model, Remembers):
        pytest.skip("the compiler cannot take back a buffer that is registered while it traces")
    params, buffers, batch, v = point(model)
    loss = pb.sample_losses(model, nn.MSELoss())
    compiled = torch.compile(pb.hessian(loss), fullgraph=True, backend="aot_eager")
    assert_close(compiled(params, buffers, batch, v), truth(model, params, batch)[0] @ v)


def test_threads_do_not_mix_their_numbers():
    torch.manual_seed(0)
    model = Closure().double()
    members = [point(model) for _ in range(4)]
    op = pb.hessian(pb.sample_losses(model, nn.MSELoss()))
    expected = [op(*member) for member in members]
    with ThreadPoolExecutor(4) as pool:
        for i, product in enumerate(pool.map(lambda member: op(*member), members * 20)):
            assert_close(product, expected[i % 4])


def test_model_runs_in_the_mode_that_it_had():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).double().eval()
    loss, (params, buffers, batch, _) = pb.sample_losses(model, nn.MSELoss()), point(model)
    expected = loss(params, buffers, batch)
    model.train()
    assert_close(loss(params, buffers, batch), expected)
    assert model[1].training


def over(model, reduction="none"):
    """The mistake: a loss that calls the module itself."""
    return lambda params, buffers, batch: F.mse_loss(model(batch[0]), batch[1], reduction=reduction).mean(1)


OPERATIONS = {
    "hessian": pb.hessian,
    "forward over reverse": lambda loss: pb.hessian(loss, mode="forward_over_reverse"),
    "finite difference": lambda loss: pb.hessian(loss, mode="finite_difference"),
    "gauss_newton": pb.gauss_newton,
    "unheld": lambda loss: pb.gauss_newton(loss, held=0),
    "inverse_harmonic_mean": lambda loss: pb.inverse_harmonic_mean(loss, 0.1),
}


@each(OPERATIONS, "operation")
def test_loss_that_calls_the_module_is_refused(operation):
    model = Closure().double()
    params, buffers, batch, v = point(model)
    with pytest.raises(ValueError, match=r"got a call of linear with an nn.Parameter .*functional_call"):
        operation(over(model))(params, buffers, batch, v)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"loss must depend on params, got one that uses none"):
        operation(over(model))(params, buffers, batch, v)


def test_curvature_of_a_forward_that_calls_the_module_is_refused():
    model = Closure().double()
    point_ = point(model)
    with pytest.raises(ValueError, match="got a call of linear with an"):
        pb.generalized_gauss_newton(lambda params, buffers, x: model(x), nn.MSELoss())(*point_)


def test_weight_decay_over_the_parameters_of_the_module_is_refused_unless_they_are_frozen():
    model = Closure().double()
    params, buffers, batch, v = point(model)

    def criterion(output, target):
        return F.mse_loss(output, target) + sum(p.square().sum() for p in model.parameters())

    with pytest.raises(ValueError, match="nn.Parameter"):
        pb.hessian(pb.sample_losses(model, criterion))(params, buffers, batch, v)
    fixed = nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=False)
    frozen = pb.sample_losses(model, lambda output, target: F.mse_loss(output, target) + fixed)
    free = pb.sample_losses(model, nn.MSELoss())
    assert_close(pb.hessian(frozen)(params, buffers, batch, v), pb.hessian(free)(params, buffers, batch, v))


def test_parameter_that_the_caller_gives_is_not_foreign():
    model = Closure().double()
    params, buffers, batch, v = point(model)
    scale = nn.Parameter(torch.ones((), dtype=torch.float64))
    base = pb.sample_losses(model, nn.MSELoss())
    op = pb.hessian(lambda p, b, batch: base(p, {}, batch) * b["scale"])
    product = op(params, {"scale": scale}, batch, v)
    (slope,) = torch.autograd.grad(product.sum(), scale)
    assert_close(slope, pb.hessian(base)(params, {}, batch, v).sum())


def test_block_that_the_loss_does_not_use_is_zero():
    params = {"used": torch.ones(2), "unused": torch.ones(3)}
    op = pb.block_diagonal(pb.hessian(lambda p, b, x: ({**p, **b}["used"] * x).square().sum(1)), ["used", "unused"])
    assert_close(op(params, {}, torch.ones(4, 2), torch.ones(5)), torch.tensor([2.0, 2, 0, 0, 0]))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a, self.b, self.reentrant = nn.Linear(3, 4), nn.Linear(4, 2), reentrant

    def forward(self, x):
        return self.b(checkpoint(lambda h: torch.tanh(self.a(h)), x, use_reentrant=self.reentrant))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_is_refused_with_the_way_out(reentrant):
    model = Checkpointed(reentrant).double()
    params, buffers, batch, v = point(model)

    def own(p, b, batch):
        return (torch.func.functional_call(model, (p, b), (batch[0],)) - batch[1]).square().mean(1)

    for loss in (own, pb.sample_losses(model, nn.MSELoss())):
        for op in (pb.hessian(loss), pb.gauss_newton(loss, held=0), pb.gauss_newton(loss), pb.inverse_harmonic_mean(loss, 1)):
            with pytest.raises((ValueError, RuntimeError), match="switch checkpointing off"):
                op(params, buffers, batch, v)


WRAPPERS = {
    "DataParallel": (nn.DataParallel, "its attribute .module"),
    "script": (torch.jit.script, "before torch.jit.script"),
    "compile": (torch.compile, "its attribute ._orig_mod"),
}


@each(WRAPPERS, "wrapper")
def test_wrapper_that_cannot_run_as_a_function_is_refused(wrapper):
    wrap, way = wrapper
    with pytest.raises(ValueError, match=way):
        pb.sample_losses(wrap(nn.Sequential(nn.Linear(3, 2))), nn.MSELoss())


def test_spectral_norm_in_training_mode_is_refused():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="spectral norm in training mode"):
        pb.sample_losses(model, nn.MSELoss())


class Keywords(nn.Linear):
    def forward(self, pixels=None, scale=None):
        return super().forward(pixels) * (1 if scale is None else scale)


def test_dict_of_arguments_becomes_keywords():
    model = Keywords(3, 2)
    state, x = pb.functional_state(model), torch.randn(4, 3)
    forward = pb.pure_forward(model)
    assert_close(forward(*state, {"pixels": x}), model(x).detach())
    assert_close(forward(*state, {"pixels": x, "scale": torch.tensor(2.0)}), 2 * model(x).detach())
    assert_close(forward(*state, x), model(x).detach())


def physics(params, buffers, x):
    def u(z):
        return torch.tanh(z * params["w"]).sum()

    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(sum(u(z) for z in x), x, create_graph=True)
    return (slope - 1).square()


def test_derivative_by_autograd_inside_a_loss_names_torch_func():
    with pytest.raises(RuntimeError, match="torch.func.grad"):
        pb.hessian(physics)({"w": torch.ones(2)}, {}, torch.ones(3), torch.ones(2))


def stops(params, buffers, x):
    h = x @ params["w"]
    with torch.no_grad():
        scale = h.square()
    return h * scale


def test_part_under_no_grad_is_refused_in_forward_mode_which_would_go_on():
    params, x, v = {"w": torch.randn(3).double()}, torch.randn(4, 3).double(), torch.ones(3).double()
    with pytest.raises(ValueError, match="under torch.no_grad in forward mode"):
        pb.hessian(stops, mode="forward_over_reverse")(params, {}, x, v)
    assert_close(pb.hessian(stops)(params, {}, x, v), torch.zeros(3).double())


@pytest.mark.parametrize("norm", [torch.ops.aten.layer_norm, torch.ops.aten.layer_norm.default, torch.layer_norm])
def test_norm_is_right_by_each_of_its_names(norm):
    def loss(params, buffers, x):
        return norm(x @ params["a"], [4], params["scale"], None, 1e-5).sin().sum(1)

    params = {"a": torch.randn(3, 4).double(), "scale": torch.randn(4).double()}
    x, v = torch.randn(5, 3).double(), torch.randn(16).double()
    leaves = [leaf.clone().requires_grad_() for leaf in params.values()]
    matrix = dense.hessian(list(loss(dict(zip(params, leaves, strict=True)), {}, x)), leaves)
    for mode in ("reverse_over_reverse", "forward_over_reverse", "reverse_over_forward"):
        assert_close(pb.hessian(loss, mode=mode)(params, {}, x, v), matrix @ v)


@pytest.mark.parametrize("mode", ["reverse_over_reverse", "forward_over_reverse", "reverse_over_forward"])
def test_derivative_stops_at_data_as_it_does_at_detach(mode):
    params, x, v = {"w": torch.randn(3).double()}, torch.randn(4, 3).double(), torch.randn(3).double()
    by_data = pb.hessian(lambda p, b, x: (x @ p["w"]).pow(3) * (x @ p["w"]).data, mode=mode)
    by_detach = pb.hessian(lambda p, b, x: (x @ p["w"]).pow(3) * (x @ p["w"]).detach())
    assert_close(by_data(params, {}, x, v), by_detach(params, {}, x, v))

"""The plain twins of torch's functions: torch's values and first derivatives, and right derivatives of higher order."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.overrides import TorchFunctionMode

import pure_batchops as pb
from pure_batchops.kernels.table import PLAIN
from pure_batchops.trees import leaves
from tests.marks import compiles


class Plain(TorchFunctionMode):
    """Calls the plain twins."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return PLAIN.get(func, func)(*args, **(kwargs or {}))


def numbers(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


def recurrent(kind, function, **options):
    """A call of a recurrent module with the numbers of its weights in the place of its parameters."""
    module = kind(3, 4, **options).double()
    packed = torch.nn.utils.rnn.pack_padded_sequence(numbers(4, 3, 3), [4, 2, 1])
    states = [numbers(part.shape[0], 3, part.shape[2]) for part in leaves(module(packed)[1])]
    hx = tuple(states) if len(states) == 2 else states[0]
    rest = (module.bias, module.num_layers, 0.0, False, module.bidirectional)
    weights = [weight.detach() for weight in module.parameters()]
    x = numbers(3, 2, 3) if module.batch_first else numbers(2, 3, 3)
    return [
        (function, (x, hx, weights, *rest, module.batch_first)),
        (function, (packed.data, packed.batch_sizes, hx, weights, *rest)),
    ]


def rows():
    torch.manual_seed(0)
    x, weight, bias, channels = numbers(3, 2, 4), numbers(2, 4), numbers(2, 4), (numbers(2), numbers(2))
    yield F.layer_norm, (x, (2, 4), weight, bias)
    yield F.layer_norm, (x, [4], None, bias[0], 0.1)
    yield torch.layer_norm, (x, [4], weight[0])
    yield torch.native_layer_norm, (x, [4], weight[0], bias[0], 1e-3)
    yield F.batch_norm, (x, None, None, *channels, True)
    yield F.batch_norm, (x[..., 0], None, None, None, None, True, 0.3, 0.1)
    yield torch.batch_norm, (x, *channels, None, None, True, 0.1, 1e-3, False)
    yield F.instance_norm, (x, None, None, *channels)
    yield F.instance_norm, (numbers(2, 2, 2, 3),)
    yield torch.instance_norm, (x, *channels, None, None, True, 0.1, 1e-3, False)
    for dim, shape in [(0, (2, 1)), (1, (1, 4)), (-1, ())]:
        yield torch._weight_norm, (weight, numbers(*shape), dim)
    yield torch._weight_norm, (numbers(4), numbers(4))
    for kind, function, options in [
        (nn.LSTM, torch.lstm, {}),
        (nn.LSTM, torch.lstm, {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
        (nn.LSTM, torch.lstm, {"batch_first": True, "bias": False, "proj_size": 2}),
        (nn.GRU, torch.gru, {"num_layers": 2, "batch_first": True}),
        (nn.GRU, torch.gru, {"bidirectional": True, "bias": False}),
        (nn.RNN, torch.rnn_tanh, {"num_layers": 2, "bidirectional": True}),
        (partial(nn.RNN, nonlinearity="relu"), torch.rnn_relu, {}),
    ]:
        yield from recurrent(kind, function, **options)
    for (function, gates), biases in product(
        [(torch.lstm_cell, 4), (torch.gru_cell, 3), (torch.rnn_tanh_cell, 1), (torch.rnn_relu_cell, 1)], (True, False)
    ):
        hx = [numbers(3, 2), numbers(3, 2)] if gates == 4 else numbers(3, 2)
        weights = numbers(2 * gates, 4), numbers(2 * gates, 2)
        yield function, (numbers(3, 4), hx, *weights, *([numbers(2 * gates), numbers(2 * gates)] if biases else []))
    query, key, value = numbers(2, 3, 4), numbers(2, 5, 4), numbers(2, 5, 2)
    mask = torch.rand(3, 5) > 0.5
    mask[0] = True
    yield F.scaled_dot_product_attention, (query, key, value)
    yield F.scaled_dot_product_attention, (query, key, value, mask)
    yield F.scaled_dot_product_attention, (query, key, value, numbers(2, 3, 5).masked_fill(~mask, -torch.inf))
    yield F.scaled_dot_product_attention, (query, key, value, None, 0.0, True)
    yield F.hardsigmoid, (4 * numbers(3, 4),)
    yield F.prelu, (numbers(3, 2, 4), numbers(2))
    yield torch.Tensor.prelu, (numbers(4), numbers(1))
    yield F.glu, (numbers(3, 4), 1)
    yield F.rrelu, (numbers(3, 4), 0.1, 0.5)
    for p in (1.0, 2.0, 3.0):
        yield torch.cdist, (numbers(2, 3, 4), numbers(2, 4), p)
        yield F.pdist, (numbers(4, 3), p)
    yield torch.cdist, (numbers(2, 3), numbers(27, 3))
    indices, starts = torch.tensor([[0, 2, 2], [1, 3, 0]]), torch.tensor([0, 2, 2])
    for mode in ("sum", "mean", "max"):
        yield F.embedding_bag, (indices, numbers(4, 3), None, None, 2, False, mode)
        yield F.embedding_bag, (indices, numbers(4, 3), None, None, 2, False, mode, False, None, False, -2)
        yield F.embedding_bag, (indices.flatten(), numbers(4, 3), starts, None, 2, False, mode, False, None, False, 0)
    yield F.embedding_bag, (indices, numbers(4, 3), None, None, 2, False, "sum", False, numbers(2, 3))
    ends = torch.tensor([0, 2, 6])
    yield F.embedding_bag, (indices.flatten(), numbers(4, 3), ends, None, 2, False, "mean", False, None, True)
    target = torch.where(torch.rand(3, 4) > 0.8, x[:, 0], numbers(3, 4))
    for reduction in ("mean", "sum", "none"):
        yield F.mse_loss, (x[:, 0], target, None, None, reduction)
        yield F.huber_loss, (x[:, 0], target, reduction, 0.7)
        yield F.smooth_l1_loss, (x[:, 0], target, None, None, reduction, 0.7)
        yield F.gaussian_nll_loss, (x[:, 0], target, target.square() + 0.1, True, 1e-6, reduction)
    matrix = numbers(2, 3, 3)
    yield torch.linalg.solve, (matrix, numbers(2, 3, 2))
    yield torch.linalg.solve, (matrix[0], numbers(3))
    yield torch.slogdet, (matrix,)
    yield torch.logdet, (matrix @ matrix.mT,)
    yield torch.linalg.det, (matrix,)
    factor = torch.linalg.cholesky(matrix @ matrix.mT + 4 * torch.eye(3))
    yield torch.cholesky_inverse, (factor,)
    yield torch.cholesky_inverse, (factor[0].mT, True)
    yield torch.cholesky_solve, (numbers(2, 3, 2), factor)
    yield torch.linalg.householder_product, (numbers(2, 4, 3), numbers(2, 2))
    signs, labels = torch.where(target > 0, 1, -1), torch.tensor([1, 3, 0])
    yield F.hinge_embedding_loss, (x[:, 0], signs)
    yield F.multi_margin_loss, (x[:, 0], labels)
    yield F.multi_margin_loss, (x[0, 0], labels[0], 2, 0.5, None, None, None, "sum")
    yield F.multilabel_margin_loss, (x[:, 0], torch.tensor([[3, 0, -1, 1], [1, -1, 2, 2], [-1, 0, 0, 0]]))


def with_tensors(args, tensors):
    """The arguments with other numbers in the place of their floating-point tensors, in order."""
    fresh = iter(tensors)

    def put(part):
        if isinstance(part, torch.Tensor):
            return next(fresh) if part.is_floating_point() else part
        return type(part)(map(put, part)) if isinstance(part, list | tuple) and not isinstance(part, torch.Size) else part

    return [put(part) for part in args]


def tensors_of(args):
    return [leaf for leaf in leaves(args) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def objective(function, args, *tensors):
    """A curved number made of all results."""
    total = 0.0
    parts = leaves(function(*with_tensors(args, tensors)))
    one = function in {torch.native_layer_norm, PLAIN[torch.native_layer_norm]}  # torch drops the gradients of the others
    for number, part in enumerate(parts[:1] if one else parts):
        angles = torch.linspace(0.5, 1.5, part.numel(), dtype=torch.float64).reshape(part.shape)
        total = total + (angles * (part + number) + 0.1 * part.square()).sin().sum()
    return total


def gradient(f, tensors, *, graph=False):
    inputs = [t if t.requires_grad else t.detach().requires_grad_() for t in tensors]
    return torch.autograd.grad(f(*inputs), inputs, create_graph=graph, materialize_grads=True)


def hessian_product(f, tensors, v):
    inputs = [t.detach().requires_grad_() for t in tensors]
    gradients = gradient(f, inputs, graph=True)
    inner = sum((g * u).sum() for g, u in zip(gradients, v, strict=True))
    return torch.autograd.grad(inner, inputs, materialize_grads=True)


def central(f, tensors, v, step=1e-5):
    plus, minus = (f([t + sign * u for t, u in zip(tensors, v, strict=True)]) for sign in (step, -step))
    return [(a - b) / (2 * step) for a, b in zip(plus, minus, strict=True)]


ROWS = list(rows())
IDS = [f"{number}-{function.__name__}" for number, (function, _) in enumerate(ROWS)]
every_row = pytest.mark.parametrize(("function", "args"), ROWS, ids=IDS)


@every_row
def test_values_and_gradients_are_torchs(function, args):
    twin = PLAIN[function]
    torch.testing.assert_close(twin(*args), function(*args), rtol=1e-12, atol=1e-12)
    tensors = tensors_of(args)
    if function in {
        torch.cholesky_inverse,
        torch.cholesky_solve,
    }:  # torch's gradient is wrong in the triangle that is not read
        return
    ours, theirs = (gradient(partial(objective, f, args), tensors) for f in (twin, function))
    rtol = 1e-7 if function is F.hardsigmoid else 1e-10  # torch takes 1/6 in single precision
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-11)


@every_row
def test_second_and_third_derivatives_are_central_differences(function, args):
    twin, tensors = partial(objective, PLAIN[function], args), tensors_of(args)
    v = [torch.randn_like(t) for t in tensors]
    slope = sum((g * u).sum() for g, u in zip(gradient(twin, tensors), v, strict=True))
    torch.testing.assert_close(slope, central(lambda at: [twin(*at)], tensors, v)[0], rtol=1e-6, atol=1e-6)
    exact = hessian_product(twin, tensors, v)
    torch.testing.assert_close(exact, tuple(central(partial(gradient, twin), tensors, v)), rtol=1e-6, atol=1e-7)
    numbers = tuple(range(len(tensors)))
    _, forward = torch.func.jvp(torch.func.jacrev(twin, numbers), tuple(tensors), tuple(v))
    torch.testing.assert_close(forward, exact)
    other = torch.func.grad(lambda at: torch.func.jvp(twin, at, tuple(v))[1])(tuple(tensors))
    torch.testing.assert_close(other, exact)

    def product(*at):
        return torch.func.jvp(torch.func.grad(twin, numbers), at, tuple(v))[1]

    _, third = torch.func.jvp(product, tuple(tensors), tuple(v))
    differences = central(lambda at: hessian_product(twin, at, v), tensors, v)
    torch.testing.assert_close(third, tuple(differences), rtol=1e-5, atol=1e-6)


@every_row
def test_gradients_under_vmap_are_the_loop(function, args):
    twin, tensors = partial(objective, PLAIN[function], args), tensors_of(args)
    numbers = tuple(range(len(tensors)))
    for chosen in (numbers, numbers[:1], numbers[1:]):
        stacked = [torch.stack([t, 0.9 * t]) if i in chosen else t for i, t in enumerate(tensors)]
        dims = tuple(0 if i in chosen else None for i in numbers)
        if chosen:
            mapped = torch.vmap(torch.func.grad(twin, numbers), dims)(*stacked)
            for member in range(2):
                one = [t[member] if i in chosen else t for i, t in enumerate(stacked)]
                torch.testing.assert_close(tuple(g[member] for g in mapped), gradient(twin, one))


def values():
    """Calls with the options and dtypes that the rows leave out."""
    torch.manual_seed(1)
    x, channels, indices = numbers(3, 4, 5), (numbers(4), numbers(4).abs()), torch.tensor([[0, 2], [1, 1]])
    for dtype in (torch.float32, torch.bfloat16):
        low, parts = x.to(dtype), [part.to(dtype) for part in channels]
        yield F.layer_norm, (low, (5,)), {}
        yield F.layer_norm, (low, (5,), low[0, 0].float(), low[0, 1].float()), {}
        yield F.batch_norm, (low, None, None, *parts, True), {}
        yield F.instance_norm, (low, None, None, *parts), {}
        yield F.scaled_dot_product_attention, (low, low, low), {"scale": 0.3}
        yield F.hardsigmoid, (low,), {}
        yield F.prelu, (low, parts[0]), {}
        yield F.mse_loss, (low, 2 * low), {}
        yield F.huber_loss, (low, 2 * low), {}
        yield F.embedding_bag, (indices, low[0]), {"mode": "mean"}
        yield torch._weight_norm, (low[0], parts[0][:, None], 0), {}
        yield torch.lstm_cell, (low[0], [low[1], low[2]], low[0].repeat(5, 1), low[1].repeat(5, 1)), {}
        yield torch.gru_cell, (low[0], low[1], low[0, :3].repeat(5, 1), low[1, :3].repeat(5, 1)), {}
    heads = numbers(2, 6, 3, 4), numbers(2, 2, 5, 4), numbers(2, 2, 5, 4)
    blind = torch.tensor([[True] * 5, [False] * 5, [True] + [False] * 4])
    yield F.scaled_dot_product_attention, (*heads[1:], heads[2], None), {"is_causal": True}
    yield F.scaled_dot_product_attention, (heads[0], heads[0].mT @ heads[0], heads[0].mT @ heads[0]), {}
    yield F.scaled_dot_product_attention, (heads[0][:, :2], *heads[1:], blind), {}
    if torch.__version__ >= "2.5":
        yield F.scaled_dot_product_attention, heads, {"enable_gqa": True}
    yield F.batch_norm, (x, channels[0], channels[1].abs(), *channels), {}
    yield F.instance_norm, (x, *channels, None, None, False), {}
    yield F.embedding, (indices, x[0]), {"padding_idx": -2, "sparse": True}
    yield F.embedding_bag, (indices[0], x[0], torch.tensor([0, 1])), {"padding_idx": 2}
    yield F.mse_loss, (x, 2 * x), {"size_average": True, "reduce": False}
    yield F.smooth_l1_loss, (x, 2 * x), {"beta": 0.0}
    yield F.gaussian_nll_loss, (x, 2 * x, torch.ones(3, 4, 1)), {}
    yield F.multi_margin_loss, (x[0], torch.tensor([1, 0, 2, 4])), {"weight": numbers(5).abs()}
    yield torch.cdist, (x, x), {"p": torch.inf}
    yield F.pdist, (x[0],), {"p": 0.5}
    yield torch.linalg.solve, (x[0, :3, :3], x[1, :3, :3]), {"left": False}
    yield torch.linalg.det, (torch.ones(3, 3),), {}
    yield torch.linalg.slogdet, (torch.ones(3, 3),), {}
    yield torch.logdet, (-torch.eye(3),), {}


@pytest.mark.parametrize("function", [F.embedding, F.embedding_bag])
@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_embedding_that_changes_its_weight_or_its_gradient_is_refused(function, option):
    with pytest.raises(ValueError, match=f"got an embedding with {next(iter(option))}.*; set {next(iter(option))} to"):
        PLAIN[function](torch.tensor([[0, 2], [1, 1]]), numbers(3, 4), **option)


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize(("function", "args", "options"), values())
def test_values_with_every_option_are_torchs(function, args, options):
    ours, theirs = leaves(PLAIN[function](*args, **options)), leaves(function(*args, **options))
    half = theirs[0].dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, equal_nan=True, **({"rtol": 2e-2, "atol": 2e-2} if half else {}))


@pytest.mark.parametrize(
    "function", [F.mse_loss, F.huber_loss, F.smooth_l1_loss, F.hardsigmoid, F.embedding_bag, torch.lstm_cell]
)
def test_values_under_autocast_are_torchs(function):
    rows = [args for key, args in ROWS if key is function]
    single = with_tensors(rows[0], [t.float() for t in tensors_of(rows[0])])
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            args = single if dtype == torch.float32 else with_tensors(single, [t.to(dtype) for t in tensors_of(single)])
            ours, theirs = leaves(PLAIN[function](*args)), leaves(function(*args))
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)])
def test_norms_that_track_give_torchs_numbers_and_leave_their_statistics(norm):
    x, norm = numbers(3, 4, 5), norm.double()
    expected = type(norm)(4, affine=True, track_running_stats=True).double()(x)
    before = norm.running_mean.clone(), norm.running_var.clone()
    with Plain():
        torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close((norm.running_mean, norm.running_var), before)


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (F.layer_norm, (torch.ones(3, 4), (3,)), "normalized_shape"),
        (F.batch_norm, (torch.ones(1, 4), None, None, None, None, True), "more than 1 value per channel"),
        (F.batch_norm, (torch.ones(2, 4), None, None, torch.ones(1), None, True), "weight"),
        (F.instance_norm, (torch.ones(2, 4, 1),), "more than 1 spatial element"),
        (F.scaled_dot_product_attention, (*[torch.ones(1, 2, 2)] * 3, torch.ones(2, 2), 0.0, True), "mask"),
        (F.prelu, (torch.ones(2, 3), torch.ones(2)), "parameter numbers"),
        (F.huber_loss, (torch.ones(2), torch.ones(2), "mean", -1.0), "delta"),
        (torch.linalg.solve, (torch.ones(2, 2), torch.ones(2, 2)), "singular"),
    ],
)
def test_wrong_arguments_raise_torchs_errors(function, args, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        PLAIN[function](*args)


@pytest.mark.parametrize(("norm", "shape"), [(F.batch_norm, (2, 3, 4)), (F.instance_norm, (2, 3, 4, 5))])
def test_norms_in_evaluation_mode_have_second_derivatives_under_vmap(norm, shape):
    mean, var, weight, bias = numbers(4), numbers(4).abs(), numbers(4), numbers(4)
    gradient = torch.func.grad(lambda x: norm(x.sin(), mean, var, weight, bias, False).pow(3).sum())

    def product(x):
        return torch.func.vjp(gradient, x)[1](x)[0]

    x = numbers(*shape)
    expected = torch.stack([product(one) for one in x])
    with Plain():
        torch.testing.assert_close(torch.vmap(product)(x), expected)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_modules_work_under_every_transform(kind, packed):
    torch.manual_seed(0)
    model, x = kind(3, 2, num_layers=2, bidirectional=True).double(), numbers(4, 2, 3)
    params = {name: param.detach() for name, param in model.named_parameters()}

    def loss(params, x):
        x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2])) if packed else x
        output, state = torch.func.functional_call(model, params, (x,))
        output = nn.utils.rnn.pad_packed_sequence(output)[0] if packed else output
        return output.sin().sum() + sum(part.cos().sum() for part in leaves(state))

    gradient = torch.func.grad(loss)
    members, inputs = {name: torch.stack([p, 0.9 * p]) for name, p in params.items()}, torch.stack([x, 0.9 * x])
    with Plain():
        expected = torch.func.vjp(lambda p: gradient(p, x), params)[1](params)[0]
        torch.testing.assert_close(torch.func.jvp(lambda p: gradient(p, x), (params,), (params,))[1], expected)
        jacobian = torch.func.jacrev(loss)
        torch.testing.assert_close(torch.func.jvp(lambda p: jacobian(p, x), (params,), (params,))[1], expected)
        by_member = torch.vmap(gradient, (0, None))(members, x)
        by_input = torch.vmap(gradient, (None, 0))(params, inputs)
    for number in range(2):
        of_member = gradient({name: p[number] for name, p in members.items()}, x) if not packed else None
        of_input = gradient(params, inputs[number]) if not packed else None
        for got, one in ((by_member, of_member), (by_input, of_input)):
            if one is not None:  # torch's own cannot differentiate packed sequences
                torch.testing.assert_close({name: g[number] for name, g in got.items()}, one)


@compiles
@pytest.mark.parametrize(
    "function", [torch._weight_norm, F.hardsigmoid, torch.gru_cell, F.scaled_dot_product_attention, F.layer_norm]
)
def test_the_compiler_calls_the_twins(function):
    args = next(args for key, args in ROWS if key is function)
    tensors = tensors_of(args)

    def product(*tensors):
        with Plain():
            gradient = torch.func.grad(partial(objective, function, args), tuple(range(len(tensors))))
            return torch.func.vjp(gradient, *tensors)[1](tensors)

    torch.compiler.reset()
    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    expected = hessian_product(partial(objective, PLAIN[function], args), tensors, tensors)
    torch.testing.assert_close(compiled(*tensors), expected)


@pytest.mark.parametrize("mode", ["reverse_over_reverse", "forward_over_reverse", "reverse_over_forward"])
def test_padding_of_an_embedding_is_a_constant_in_every_mode(mode):
    torch.manual_seed(0)
    x, weight = torch.tensor([[0, 1], [1, 2], [1, 1], [2, 0]]), numbers(3, 2)
    hessian = pb.hessian(lambda params, _, x: F.embedding(x, params["w"], 1).sum(1).tanh().prod(1), mode=mode)

    def loss(rest):
        return F.embedding(x, torch.stack([rest[0], weight[1], rest[1]])).sum(1).tanh().prod(1).mean()

    rest = [0, 1, 4, 5]
    expected = torch.zeros(6, 6, dtype=torch.float64)
    expected[torch.tensor(rest)[:, None], torch.tensor(rest)] = torch.autograd.functional.hessian(
        loss, weight[[0, 2]]
    ).reshape(4, 4)
    torch.testing.assert_close(pb.dense(hessian)({"w": weight}, {}, x), expected)


@pytest.mark.filterwarnings("ignore:torch.lu_solve is deprecated", "ignore:There is a performance drop")
@pytest.mark.parametrize("function", [torch.linalg.lu_solve, torch.lu_solve])
def test_lu_solve_under_two_vmaps_is_the_loop(function):
    torch.manual_seed(0)
    matrices, rights = numbers(2, 3, 3), numbers(2, 4, 3)

    def loss(a, b):
        factors = torch.linalg.lu_factor(a)
        with Plain():
            return (
                (function(b[:, None], *factors) if function is torch.lu_solve else function(*factors, b[:, None]))
                .square()
                .sum()
            )

    slopes = torch.vmap(torch.vmap(torch.func.grad(loss), in_dims=(None, 0)))(matrices, rights)
    loop = [[torch.func.grad(loss)(a, b) for b in row] for a, row in zip(matrices, rights, strict=True)]
    torch.testing.assert_close(slopes, torch.stack([torch.stack(row) for row in loop]))


@pytest.mark.parametrize("options", [{}, {"left": False}, {"adjoint": True}, {"left": False, "adjoint": True}])
def test_lu_solve_is_torchs(options):
    torch.manual_seed(0)
    call = (*torch.linalg.lu_factor(numbers(2, 3, 3)), numbers(2, 3, 3))
    torch.testing.assert_close(PLAIN[torch.linalg.lu_solve](*call, **options), torch.linalg.lu_solve(*call, **options))

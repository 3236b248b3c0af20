"""The rule of every route: the gradient of a sample is that of its loss as the batch gave it, or the loss is refused."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.gradients import mixing
from pure_batchops.trees import leaves
from tests.layers import dense_gradients
from tests.marks import TELLS, compiles

N = 6


class Gated(nn.Module):
    """Samples mix behind a gate. While it is shut they have the losses, but not the gradients, that they have alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(4, 5), nn.Linear(5, 3), nn.Parameter(torch.zeros(5))

    def forward(self, x):
        hidden = torch.tanh(self.a(x))
        return self.b(hidden + self.gate * hidden.mean(0, keepdim=True))


class GatedByLayer(Gated):
    """The gate is the weight of a layer, which sees the mean of all samples."""

    def __init__(self):
        super().__init__()
        del self.gate
        self.gate = nn.Linear(5, 5, bias=False)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x):
        hidden = torch.tanh(self.a(x))
        return self.b(hidden + self.gate(hidden.mean(0, keepdim=True).expand(hidden.shape)))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.route, self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        route = self.route(x).softmax(-1)
        return route * self.a(x) + (1 - route) * self.b(x)


def of_module(model, loss_of_output=F.cross_entropy):
    def loss(params, buffers, batch):
        return loss_of_output(functional_call(model, (params, buffers), (batch[0],)), batch[1], reduction="none")

    return loss


def balanced(model, weight):
    def loss(params, buffers, batch):
        route = F.linear(batch[0], params["route.weight"], params["route.bias"]).softmax(-1)
        return of_module(model)(params, buffers, batch) + weight * 3 * route.mean(0).square().sum()

    return loss


def normed(params, buffers, batch):
    """A batch norm by the batch's own moments, which the user does not differentiate, and one that they do."""
    hidden = F.linear(batch[0], params["a.weight"])
    with torch.no_grad():
        mean = hidden.mean(0)
    return (hidden - mean).tanh().square().sum(1)


def batch_norm(params, buffers, batch):
    hidden = F.batch_norm(F.linear(batch[0], params["a.weight"]), None, None, training=True)
    return F.cross_entropy(hidden[:, :3], batch[1], reduction="none")


def contrastive(params, buffers, batch):
    z = F.normalize(F.linear(batch[0], params["a.weight"]).tanh() * params["gate"].cos(), dim=1)
    return F.cross_entropy(z @ z.T / 0.5, torch.arange(len(z)).roll(1), reduction="none")


def point(model, dtype=torch.float32):
    model = model.to(dtype).eval()
    return *pb.functional_state(model), (torch.randn(N, 4, dtype=dtype), torch.randint(3, (N,)))


def gated(kind=Gated, dtype=torch.float32):
    model = kind()
    return of_module(model), *point(model, dtype)


def experts(weight, dtype=torch.float32):
    model = Experts()
    return balanced(model, weight), *point(model, dtype)


def with_gate(loss, dtype=torch.float32):
    return loss, *point(Gated(), dtype)


MIXES = {
    "a shut gate": gated,
    "a shut gate in double precision": partial(gated, dtype=torch.float64),
    "load balancing": partial(experts, 0.01),
    "a little load balancing": partial(experts, 0.001),
    "detached moments of the batch": partial(with_gate, normed),
    "a batch norm": partial(with_gate, batch_norm),
    "a contrastive loss": partial(with_gate, contrastive),
}
mixes = pytest.mark.parametrize("build", MIXES.values(), ids=MIXES)
REFUSING = {
    "inverse_harmonic_mean": lambda loss: lambda *p: pb.inverse_harmonic_mean(loss, 0.5)(*p, pb.gradient(loss)(*p)),
    "by layer": lambda loss: lambda *p: pb.inverse_harmonic_mean(loss, 0.5, held=40)(*p, pb.gradient(loss)(*p)),
    "unformed": lambda loss: lambda *p: pb.inverse_harmonic_mean(loss, 0.5, held=0)(*p, pb.gradient(loss)(*p)),
    "in chunks": lambda loss: lambda *p: pb.gradient_norms(loss, sample_chunk_size=2)(*p),
    "norms": pb.gradient_norms,
    "gradients": pb.sample_gradients,
    "influences": lambda loss: lambda p, b, x: pb.self_influence(scaled, loss)(p, b, [x]),
    "influences in chunks": lambda loss: lambda p, b, x: pb.self_influence(scaled, loss, chunk_size=2)(p, b, [x]),
    "influences in ones": lambda loss: lambda p, b, x: pb.influence(scaled, loss, chunk_size=1)(p, b, [x], x),
}


def scaled(params, buffers, batches, v):
    return 2 * v


@mixes
def test_outer_products_of_gradients_are_those_of_the_batch(build):
    loss, params, buffers, batch = build()
    gradients = dense_gradients(loss, params, buffers, batch)
    v = torch.randn(gradients.shape[1], dtype=gradients.dtype)
    for held in (0, 40, 2**22):
        assert_close(pb.gauss_newton(loss, held=held)(params, buffers, batch, v), gradients.T @ (gradients @ v) / N)


@mixes
@pytest.mark.parametrize("name", REFUSING)
def test_loss_that_mixes_samples_is_refused(name, build):
    loss, *point = build()
    with pytest.raises(ValueError, match=r"loss must (give a sample the same|work for (one|a part)).*samples must not depend"):
        REFUSING[name](loss)(*point)


@pytest.mark.parametrize("build", [gated, partial(experts, 0.03)], ids=["a shut gate", "load balancing"])
@pytest.mark.parametrize("name", [name for name in REFUSING if "influence" not in name])
def test_over_an_ensemble_a_loss_that_mixes_samples_is_nan(name, build):
    loss, params, buffers, batch = build()
    members = {key: torch.stack([leaf, leaf]) for key, leaf in params.items()}
    found = torch.vmap(REFUSING[name](loss), (0, None, None))(members, buffers, batch)
    assert any(leaf.isnan().any() for leaf in leaves(found))


@compiles
def test_compiled_a_shut_gate_is_nan():
    def loss(params, buffers, x):
        hidden = torch.tanh(x * params["a"])
        return (hidden + params["gate"] * hidden.mean(0)).sum(1)

    point = {"a": torch.randn(3), "gate": torch.zeros(3)}, {}, torch.randn(4, 3)
    torch._dynamo.reset()
    op = torch.compile(pb.inverse_harmonic_mean(loss, 0.5), fullgraph=True, backend="aot_eager")
    assert op(*point, torch.ones(6)).isnan().all()


def test_gate_that_is_the_weight_of_a_layer_has_the_gradient_of_the_batch_or_is_refused():
    loss, params, buffers, batch = gated(GatedByLayer, torch.float64)
    gradients = dense_gradients(loss, params, buffers, batch)
    if not TELLS:
        with pytest.raises(ValueError, match="the same gradient alone"):
            pb.sample_gradients(loss)(params, buffers, batch)
        return
    found = torch.cat([leaf.flatten(1) for leaf in leaves(pb.sample_gradients(loss)(params, buffers, batch))], 1)
    assert_close(found, gradients)  # δᵢ is that of ℓᵢ alone, whatever the input of the layer was made of


@torch.jit.script
def scripted(w: torch.Tensor) -> torch.Tensor:
    return w.sin().sum()


def linear(p, x):
    return F.linear(x, p["w"])


def linear_without_gradients(p, x):
    with torch.no_grad():
        return F.linear(x, p["w"]).cos()


def with_term_of_the_batch(hidden):
    return hidden.sum(1) + 0.01 * hidden.tanh().square().mean()


ONE_PASS = {  # losses of x (N, 4) and w (3, 4), and why one pass does not serve
    "plain": (lambda p, x: linear(p, x).tanh().sum(1), None),
    "a layer that nobody uses": (lambda p, x: linear(p, x).tanh().sum(1) + 0 * F.linear(x, p["w"]).detach().sum(1), None),
    "a layer without gradients": (lambda p, x: (linear(p, x) * linear_without_gradients(p, x)).sum(1), None),
    "control flow": (lambda p, x: linear(p, x).tanh().sum(1) * (2.0 if bool(x.sum() > -1e9) else 1.0), None),
    "changed in place": (lambda p, x: linear(p, x).mul_(2).tanh().sum(1), None),
    "a scripted use": (lambda p, x: linear(p, x).tanh().sum(1) * scripted(p["w"]), "a use of a parameter was not seen"),
    "a scripted bias": (
        lambda p, x: F.linear(x, p["w"], scripted(p["w"]).expand(3)).tanh().sum(1),
        "a use of a parameter was not seen",
    ),
    "a scripted input": (
        lambda p, x: F.linear(x * scripted(p["w"]), p["w"]).tanh().sum(1),
        "a use of a parameter was not seen",
    ),
    "below": (lambda p, x: linear(p, x).sum(1) * torch.ops.aten.sin(p["w"]).sum(), "have more than 1 numbers"),
    "no known way": (lambda p, x: torch.einsum("ni,oi->no", x, p["w"]).sin().sum(1), "uses a parameter"),
    "mixed rows": (lambda p, x: linear(p, x).softmax(0).sum(1), "a row of a layer's output does not belong to one sample"),
    "a small term of the batch": (
        lambda p, x: with_term_of_the_batch(linear(p, x).sin()),
        "a row of a layer's output does not belong to one sample",
    ),
    "mixed inputs": (lambda p, x: linear(p, x - x.mean(0)).sin().sum(1), "samples depend on each other"),
    "repeated rows": (lambda p, x: linear(p, x.repeat(2, 1))[:N].sin().sum(1), "a use of a parameter was not seen"),
    "another order": (lambda p, x: linear(p, x.flip(0)).flip(0).sin().sum(1), "a row of a layer's output does not belong"),
    "weight and bias": (lambda p, x: F.linear(x, p["w"], p["w"][:, 0]).sin().sum(1), "have more than 1 numbers"),
}


@pytest.mark.skipif(not TELLS, reason="plain autograd never serves where torch does not tell its transforms")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ONE_PASS)
def test_one_pass_serves_any_loss_and_gives_the_gradients_of_the_batch_or_says_why_not(name, dtype, caplog):
    caplog.set_level(logging.DEBUG, "pure_batchops")
    of_x, why = ONE_PASS[name]
    params, x = {"w": torch.randn(3, 4, dtype=dtype)}, torch.randn(N, 4, dtype=dtype)

    def loss(params, buffers, x):
        return of_x(params, x)

    rows, v = dense_gradients(loss, params, {}, x), torch.randn(12, dtype=dtype)
    for held in (1, 2**22):
        caplog.clear()
        assert_close(pb.gauss_newton(loss, held=held)(params, {}, x, v), rows.T @ (rows @ v) / N)
        with torch.no_grad():
            assert_close(pb.gauss_newton(loss, held=held)(params, {}, x, v), rows.T @ (rows @ v) / N)
        taken = [message for message in caplog.messages if message.endswith("by one pass")]
        assert len(taken) == (2 if why is None or (held > 1 and "more than" in why) else 0)
        refusals = [m for m in caplog.messages if m.startswith("one pass refused: ")]
        assert why is None or len(taken) == 2 or any(why in refusal for refusal in refusals)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(7, 8), nn.LayerNorm(8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.norm(self.embedding(x))
        return self.head(hidden + self.attention(hidden, hidden, hidden)[0]).mean(1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.scale = nn.Embedding(7, 3), nn.Parameter(torch.tensor(1.3))

    def forward(self, x):
        return (x.shape[1] + self.scale * F.linear(self.embedding(x).tanh(), self.embedding.weight)).mean(1)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 4), nn.Linear(4, 3), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.b(x + self.scale * F.relu(self.a(x)))


class Upcast(Residual):
    """A model that computes a part of itself in single precision, whatever its numbers are."""

    def forward(self, x):
        hidden = self.a(x).float()
        hidden = (hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return self.b(x + (self.scale + 1) * hidden)


def convolutions():
    parts = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU())
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 3))


ORDINARY = {
    "convolutions": (convolutions, lambda: torch.randn(N, 1, 10, 10)),
    "perceptron": (lambda: nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3)), None),
    "attention": (Attention, lambda: torch.randint(7, (N, 5))),
    "tied": (Tied, lambda: torch.randint(7, (N, 5))),
    "residual": (Residual, None),
    "upcast": (Upcast, None),
    "norms": (lambda: nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)), None),
}


def ordinary(name, dtype, seed=0):
    torch.manual_seed(seed)
    build, inputs = ORDINARY[name]
    model = build().to(dtype).eval()
    x = torch.randn(N, 4) if inputs is None else inputs()
    batch = (x.to(dtype) if x.is_floating_point() else x), torch.randint(3, (N,))
    return of_module(model), *pb.functional_state(model), batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_model_is_not_refused(name, dtype):
    for seed in range(3):
        loss, *point = ordinary(name, dtype, seed)
        norms = pb.gradient_norms(loss)(*point)
        expected = dense_gradients(loss, *point).double().norm(dim=1)
        tolerance = {torch.float32: 1e-3, torch.float64: 1e-5, torch.bfloat16: 0.3}[dtype]
        for found in (norms, pb.gradient_norms(loss, sample_chunk_size=4)(*point)):
            assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
        params, buffers, batch = point
        over = {key: leaf[None] for key, leaf in params.items()}
        assert torch.vmap(pb.gradient_norms(loss), (0, None, None))(over, buffers, batch).isfinite().all()
        pb.self_influence(scaled, loss, chunk_size=4)(params, buffers, [batch])


def test_kink_that_flips_by_rounding_is_no_mixing(monkeypatch):
    judged, usual = [], mixing._agreement

    def agreement(sums, power):
        judged.append(sums[0].losses.dtype)
        same, same_gradients = usual(sums, power)
        return same, same_gradients & (len(judged) > 1)

    monkeypatch.setattr(mixing, "_agreement", agreement)
    loss, *point = ordinary("residual", torch.float32)
    pb.gradient_norms(loss, sample_chunk_size=4)(*point)
    assert judged == [torch.float32, torch.float64]  # the second comparison decides


def test_loss_that_fixes_its_dtype_is_compared_roughly():
    weight = torch.randn(3, 4)

    def loss(params, buffers, batch):
        return (F.linear(batch[0], weight) * params["scale"]).tanh().square().sum(1)

    params, batch = {"scale": torch.randn(3)}, (torch.randn(N, 4), None)
    assert pb.gradient_norms(loss, sample_chunk_size=4)(params, {}, batch).isfinite().all()

    def mixed(params, buffers, batch):
        hidden = F.linear(batch[0], weight).tanh()
        return ((hidden + params["gate"] * hidden.mean(0)) * params["scale"]).square().sum(1)

    with pytest.raises(ValueError, match="the same gradient alone"):
        pb.gradient_norms(mixed, sample_chunk_size=4)({**params, "gate": torch.zeros(3)}, {}, batch)


def masked(params, buffers, batch):
    """Control flow that depends on data, as in the masks of transformers."""
    hidden = F.linear(batch["x"], params["w"]) * params["scale"]
    if not bool(batch["mask"].all()):
        hidden = hidden.masked_fill(~batch["mask"][:, None], 0.1)
    return hidden.tanh().square().sum(1)


def masked_point():
    params = {"w": torch.randn(3, 4).double(), "scale": torch.randn(3).double()}
    return params, {}, {"x": torch.randn(N, 4).double(), "mask": torch.arange(N) != 2}


def test_loss_that_vmap_cannot_map_goes_sample_by_sample():
    params, buffers, batch = masked_point()
    rows = dense_gradients(masked, params, buffers, batch)
    found = pb.sample_gradients(masked)(params, buffers, batch)
    assert_close(torch.cat([leaf.flatten(1) for leaf in leaves(found)], 1), rows)
    for norms in (pb.gradient_norms(masked), pb.gradient_norms(masked, sample_chunk_size=4)):
        assert_close(norms(params, buffers, batch), rows.norm(dim=1))
    inverses = [torch.linalg.inv(torch.outer(g, g) + 0.3 * torch.eye(15).double()) for g in rows]
    matrix, v = sum(inverses) / N, torch.randn(2, 15).double()
    for held in (0, 20, 2**22):
        assert_close(pb.inverse_harmonic_mean(masked, 0.3, held=held)(params, buffers, batch, v), v @ matrix)
    inverse = pb.averaged(pb.inverse_harmonic_mean(masked, 0.3))
    for size in (None, 2):
        found = pb.influence(inverse, masked, chunk_size=size)(params, buffers, [batch], batch)
        assert_close(found, -rows @ matrix @ rows.T)
        assert_close(pb.self_influence(inverse, masked, chunk_size=size)(params, buffers, [batch]), -found.diagonal())
    members = {key: torch.stack([leaf, 2 * leaf]) for key, leaf in params.items()}
    together = torch.vmap(pb.gradient_norms(masked), (0, None, None))(members, buffers, batch)
    assert_close(together[0], rows.norm(dim=1))


def test_loss_that_vmap_cannot_map_and_that_mixes_is_refused():
    def mixing_too(params, buffers, batch):
        return masked(params, buffers, batch) * (1 + (params["scale"] * batch["x"].mean()).sum())

    with pytest.raises(ValueError, match="the same value alone"):
        pb.gradient_norms(mixing_too)(*masked_point())


def on_a_graph(params, buffers, batch):
    x, edges = batch
    hidden = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
    return (F.linear(hidden, params["w"]) * params["scale"]).tanh().square().sum(1)


@pytest.mark.parametrize("function", [pb.gradient_norms, pb.sample_gradients, REFUSING["inverse_harmonic_mean"]])
def test_loss_that_fails_for_one_sample_alone_says_so(function):
    params, _, batch = masked_point()
    batch = batch["x"], torch.tensor([[0, 1, 2, 3, 4, 5, 3], [1, 2, 3, 4, 5, 0, 0]])
    rows, v = dense_gradients(on_a_graph, params, {}, batch), torch.ones(15).double()
    assert_close(pb.gauss_newton(on_a_graph)(params, {}, batch, v), rows.T @ (rows @ v) / N)
    with pytest.raises(ValueError, match=r"loss must work for one sample alone, got IndexError: .*must not depend") as found:
        function(on_a_graph)(params, {}, batch)
    assert isinstance(found.value.__cause__, IndexError)


@pytest.mark.parametrize("function", [pb.gradient_norms, pb.sample_gradients, pb.gauss_newton])
def test_error_of_the_loss_is_its_own(function):
    def broken(params, buffers, batch):
        msg = "a bug of the user's"
        raise KeyError(msg)

    point = masked_point()
    with pytest.raises(KeyError, match="a bug of the user's"):
        function(broken)(*point, torch.ones(15).double()) if function is pb.gauss_newton else function(broken)(*point)


SHARED = {
    "as many entries as samples": ((N, 4), (N,)),
    "one entry": ((3, 4), (1,)),
    "a bias for each sample": ((3, 4), (N, 3)),
    "a bias without axes": ((3, 4), ()),
}


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("name", ["one entry", "a bias without axes", "a bias for each sample"])
def test_bias_of_any_shape_is_right_or_refused(name, independent):
    shape, of_bias = SHARED[name]

    def loss(params, buffers, x):
        return F.linear(x, params["w"], params["b"]).tanh().square().sum(1)

    loss = pb.declared(loss, independent=independent)
    params, x = {"w": torch.randn(shape).double(), "b": torch.randn(of_bias).double()}, torch.randn(N, 4).double()
    rows = dense_gradients(loss, params, {}, x)
    v = torch.randn(rows.shape[1]).double()
    for held in (0, 20, 2**22):
        if of_bias == (N, 3) and independent:  # no such loss is independent: a promise that is not kept
            continue
        assert_close(pb.gauss_newton(loss, held=held)(params, {}, x, v), rows.T @ (rows @ v) / N)


@pytest.mark.parametrize("used", ["of each class", "of each sample"])
def test_tensor_of_the_batch_that_all_share_may_have_as_many_entries_as_samples(used):
    def loss(params, buffers, batch):
        x, y, weight = batch
        outputs = F.linear(x, params["w"]) * params["scale"]
        weighted = weight[y] if used == "of each class" else weight
        return F.cross_entropy(outputs, y, reduction="none") * weighted

    params = {"w": torch.randn(N, 4).double(), "scale": torch.randn(N).double()}
    batch = torch.randn(N, 4).double(), torch.arange(N).flip(0), torch.rand(N).double()
    rows, v = dense_gradients(loss, params, {}, batch), torch.randn(30).double()
    for held in (0, 40, 2**22):
        assert_close(pb.gauss_newton(loss, held=held)(params, {}, batch, v), rows.T @ (rows @ v) / N)
    if used == "of each sample":
        assert_close(pb.gradient_norms(loss)(params, {}, batch), rows.norm(dim=1))
    else:
        with pytest.raises(ValueError, match="what they share must not look like samples"):
            pb.gradient_norms(loss)(params, {}, batch)

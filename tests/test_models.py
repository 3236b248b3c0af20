"""From modules to `(params, buffers)` and back."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.models.forward import pure_forward
from tests.strategies import KINDS, Tied, problem
from tests.tables import each


@pytest.mark.parametrize("kind", KINDS)
def test_pure_forward_of_the_state_is_the_model(kind):
    p = problem(kind, 3)
    assert_close(pure_forward(p.model)(p.params, p.buffers, p.batch[0]), p.model(p.batch[0]))


def test_numbers_come_from_the_arguments_and_never_from_the_module():
    p = problem("convolution", 3)
    loss, before = p.loss, p.loss(p.params, p.buffers, p.batch)
    frozen = {name: leaf.clone() for name, leaf in p.params.items()}
    with torch.no_grad():
        for tensor in [*p.model.parameters(), *p.model.buffers()]:
            tensor.zero_()
    p.model.train()
    assert_close(loss(frozen, pb.functional_state(problem("convolution", 3).model)[1], p.batch), before)


def test_state_shares_storage_and_is_detached():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    params, buffers = pb.functional_state(model)
    assert list(params) == [name for name, _ in model.named_parameters()]
    assert list(buffers) == [name for name, _ in model.named_buffers()]
    assert params["0.weight"].data_ptr() == model[0].weight.data_ptr()
    assert not any(leaf.requires_grad for leaf in params.values())


@pytest.mark.parametrize(
    ("restrict_to", "names"),
    [
        ("2.weight", ["2.weight"]),
        ("2.*", ["2.weight", "2.bias"]),
        (["*.bias", "0.weight"], ["0.weight", "0.bias", "2.bias"]),
        (("2.bias", "0.bias"), ["0.bias", "2.bias"]),
        (lambda name, tensor: tensor.dim() == 2 and name.startswith("2"), ["2.weight"]),
        ({"0.bias": nn.Parameter(torch.zeros(4))}, ["0.bias"]),
    ],
)
def test_restrict_to_picks_in_the_order_of_the_model(restrict_to, names):
    model = problem("perceptron").model
    params, buffers = pb.functional_state(model, restrict_to)
    assert list(params) == names
    assert set(params) | set(buffers) == set(dict(model.named_parameters()))


def test_frozen_parameters_are_buffers_unless_picked():
    model = problem("perceptron").model
    model[0].requires_grad_(False)
    assert list(pb.functional_state(model)[0]) == ["2.weight", "2.bias"]
    assert list(pb.functional_state(model)[1]) == ["0.weight", "0.bias"]
    assert list(pb.functional_state(model, "0.weight")[0]) == ["0.weight"]


def test_tied_parameter_answers_to_each_of_its_names():
    model = Tied()
    assert list(pb.functional_state(model)[0]) == ["embedding.weight"]
    assert list(pb.functional_state(model, "head.weight")[0]) == ["embedding.weight"]


@pytest.mark.parametrize(
    ("restrict_to", "error", "message"),
    [
        ("3.weight", ValueError, "no parameter matches '3.weight'; there are 0.weight"),
        (["0.weight", "x*"], ValueError, "no parameter matches 'x[*]'"),
        ([], ValueError, "no parameter is left"),
        (lambda name, tensor: False, ValueError, "no parameter is left"),
        (3, TypeError, "got int"),
        ([3], TypeError, "must be a string"),
    ],
)
def test_restrict_to_that_picks_nothing_is_refused(restrict_to, error, message):
    with pytest.raises(error, match=message):
        pb.functional_state(problem("perceptron").model, restrict_to)


def test_stacked_states_have_a_leading_axis_and_are_copies():
    states = [pb.functional_state(problem("convolution", seed=seed).model) for seed in range(3)]
    params, buffers = pb.stack_states(states)
    for name, leaf in {**params, **buffers}.items():
        assert_close(leaf, torch.stack([{**p, **b}[name] for p, b in states]))
    params["0.weight"].zero_()
    assert states[0][0]["0.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([], "at least one"),
        ([({"a": torch.ones(1)}, {}), ({"b": torch.ones(1)}, {})], "params of member 1 must have the leaves 'a'"),
        ([({"a": torch.ones(1)}, {}), ({"a": torch.ones(2)}, {})], r"member 0 has \(1,\) .*member 1 has \(2,\)"),
        ([{"a": torch.ones(1)}], "pairs"),
    ],
)
def test_states_that_do_not_stack_are_refused(states, message):
    with pytest.raises(ValueError, match=message):
        pb.stack_states(states)


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), 0.5, training=self.training)


class Draws(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)

    def forward(self, x):
        return super().forward(x + torch.randn(3))


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


IMPURE = {
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
    "dropout": lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)),
    "batch norm without statistics": lambda: nn.Sequential(
        nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)
    ).eval(),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 4),
    "recurrent": lambda: nn.LSTM(3, 3, 2, dropout=0.5),
    "random slope": nn.RReLU,
    "embedding that is renormalised": lambda: nn.Sequential(nn.Embedding(3, 3, max_norm=1.0), nn.Linear(3, 3)).eval(),
}


@each(IMPURE, "build")
def test_training_mode_and_mixing_norms_are_refused_by_the_factory(build):
    model = build()
    with pytest.raises(ValueError, match="model must not"):
        pb.sample_losses(model, nn.MSELoss())
    with pytest.raises(ValueError, match="model must not"):
        pb.generalized_gauss_newton(model, nn.MSELoss())
    with pytest.raises(ValueError, match="model must not"):
        pb.monte_carlo_fisher(model, "gaussian")


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Drops, "which draws random numbers"), (Draws, "drew random numbers"), (Writes, "wrote into its tensors calls")],
)
def test_forward_that_is_not_pure_in_training_mode_is_refused(kind, message):
    model = kind()
    params, buffers = pb.functional_state(model)
    copies = {name: leaf.clone() for name, leaf in buffers.items()}
    with pytest.raises(ValueError, match=message):
        pb.sample_losses(model, nn.MSELoss())(params, buffers, (torch.ones(2, 3), torch.ones(2, 3)))
    assert_close(buffers, copies)


def test_forward_that_draws_is_refused_in_eval_mode_too():
    pool = nn.Sequential(nn.Conv2d(1, 2, 2), nn.FractionalMaxPool2d(2, output_size=1), nn.Flatten())
    for model, x in [(Draws(), torch.ones(2, 3)), (pool, torch.ones(2, 1, 5, 5))]:
        params, buffers = pb.functional_state(model.eval())
        with pytest.raises(ValueError, match="but it drew random numbers .*; draw them before, and hand them over"):
            pb.sample_losses(model, nn.CrossEntropyLoss())(params, buffers, (x, torch.tensor([0, 1])))


def test_forward_that_writes_is_refused_in_eval_mode_too():
    model = Writes().eval()
    with pytest.raises(ValueError, match="but it wrote into its tensors calls; let its forward return"):
        pb.hessian(pb.sample_losses(model, nn.MSELoss()))(
            *pb.functional_state(model), (torch.ones(2, 3), torch.ones(2, 3)), torch.ones(12)
        )
    assert model.calls == 0


def test_training_mode_without_anything_that_cares_is_taken():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.LayerNorm(3))
    x = torch.ones(2, 3)
    assert_close(pure_forward(model)(*pb.functional_state(model), x), model(x).detach())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda params: {**params, "2.wieght": params["2.weight"]}, ValueError, "no parameter or buffer '2.wieght'"),
        (lambda params: {name: params[name] for name in list(params)[1:]}, ValueError, "missing 0.weight"),
        (lambda params: {**params, "2.bias": torch.zeros(1, 3)}, ValueError, r"shape \(3,\), got \(1, 3\)"),
        (lambda params: list(params.values()), TypeError, "dict from names"),
    ],
)
def test_state_that_is_not_the_models_is_refused(change, error, message):
    p = problem("perceptron")
    with pytest.raises(error, match=message):
        p.loss(change(p.params), p.buffers, p.batch)
    with pytest.raises(ValueError, match="in both 0.bias"):
        p.loss(p.params, {"0.bias": p.params["0.bias"]}, p.batch)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, left, right):
        return self.layer(left) - self.layer(right)


def test_inputs_of_a_forward_with_several_arguments_are_spread():
    model, left, right = Two(), torch.ones(2, 3), torch.zeros(2, 3)
    forward, state = pure_forward(model), pb.functional_state(model)
    expected = model(left, right).detach()
    assert_close(forward(*state, (left, right)), expected)
    assert_close(forward(*state, [left, right]), expected)
    assert_close(forward(*state, {"right": right, "left": left}), expected)


def test_switches_of_attention_are_as_before():
    p = problem("attention")
    fast_path = getattr(getattr(torch.backends, "mha", None), "get_fastpath_enabled", lambda: True)  # torch >= 2.3
    before = torch.backends.cuda.flash_sdp_enabled(), fast_path()
    p.loss(p.params, p.buffers, p.batch)
    with pytest.raises(ValueError, match="model's shape"):
        p.loss({name: leaf[None] for name, leaf in p.params.items()}, p.buffers, p.batch)
    assert (torch.backends.cuda.flash_sdp_enabled(), fast_path()) == before


def test_model_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got dict"):
        pb.functional_state({})
    with pytest.raises(TypeError, match="model must be a function, got dict"):
        pb.sample_losses({}, nn.MSELoss())


NORMS = {
    "layer": lambda: nn.LayerNorm((2, 3)),
    "layer without weights": lambda: nn.LayerNorm(3, elementwise_affine=False),
    "instance": lambda: nn.InstanceNorm1d(2, affine=True),
}


@each(NORMS, "norm")
def test_rewritten_norms_are_torchs(norm):
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    wrapped = nn.Sequential(norm(), nn.Linear(3, 1))
    for tensor in wrapped.parameters():
        nn.init.uniform_(tensor, 0.5, 1)
    assert_close(pure_forward(wrapped)(*pb.functional_state(wrapped), x), wrapped(x).detach())


WEIGHT_NORMS = {
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
    "along another axis": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4), dim=1),
    "as a whole": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4), dim=None),
    "of a convolution": lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 1)),
    "hooked": lambda: nn.utils.weight_norm(nn.Linear(3, 4)),
    "hooked as a whole": lambda: nn.utils.weight_norm(nn.Linear(3, 4), dim=None),
}


@each(WEIGHT_NORMS, "norm")
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_rewritten_weight_norm_is_torchs_and_has_the_right_hessian_which_torchs_has_not(norm):
    model = nn.Sequential(norm(), nn.Tanh()).double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x[..., None] if isinstance(model[0], nn.Conv1d) else x
    params, buffers = pb.functional_state(model)
    output = model(x).detach()
    assert_close(pure_forward(model)(params, buffers, x), output)
    loss = pb.sample_losses(model, nn.MSELoss())
    point = params, buffers, (x, 2 * output + 1)
    found = pb.dense(pb.hessian(loss))(*point)
    assert_close(found, pb.dense(pb.hessian(loss, mode="finite_difference"))(*point), rtol=1e-5, atol=1e-7)


class Step(nn.Module):
    """A cell with its state as a second input that it must be given."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x, state):
        return self.cell(x, state)


CELLS = {
    "GRU": lambda: nn.GRUCell(3, 4),
    "LSTM": lambda: nn.LSTMCell(3, 4),
    "RNN": lambda: nn.RNNCell(3, 4),
    "RNN of relu without a bias": lambda: nn.RNNCell(3, 4, bias=False, nonlinearity="relu"),
}


@each(CELLS, "build")
@pytest.mark.parametrize("samples", [(), (5,)])
def test_rewritten_cells_are_torchs(build, samples):
    cell = build()
    generator = torch.Generator().manual_seed(0)
    x, hidden, memory = torch.randn(3, *samples, 4, generator=generator)
    x, state = x[..., :3], (hidden, memory) if isinstance(cell, nn.LSTMCell) else hidden
    step = Step(cell)
    assert_close(pure_forward(cell)(*pb.functional_state(cell), x), cell(x))
    assert_close(pure_forward(step)(*pb.functional_state(step), (x, state)), cell(x, state))


def test_cell_of_which_one_weight_is_batched_is_mapped():
    step = Step(nn.GRUCell(2, 2))
    params, buffers = pb.functional_state(step, restrict_to="*weight_ih")
    (name,) = params
    op = pb.hessian(pb.sample_losses(step, nn.MSELoss()))
    members = torch.stack([params[name], 2 * params[name]])
    batch, v = ((torch.randn(3, 2), torch.randn(3, 2)), torch.randn(3, 2)), torch.randn(12)
    expected = torch.stack([op({name: member}, buffers, batch, v) for member in members])
    assert_close(torch.vmap(op, in_dims=({name: 0}, None, None, None))({name: members}, buffers, batch, v), expected)


class Remembers(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.known, self.seen = {}, []

    def forward(self, x):
        if "weight" not in self.known:
            self.known["weight"] = self.weight.tanh()
            self.seen.append(self.weight)
        return nn.functional.linear(x, self.known["weight"] * len(self.seen), self.bias)


def test_results_that_a_forward_remembers_are_not_those_of_other_params():
    model, x = Remembers(), torch.ones(2, 3)
    params, buffers = pb.functional_state(model)
    pure_forward(model)({name: leaf + 1 for name, leaf in params.items()}, buffers, x)
    assert_close(pure_forward(model)(params, buffers, x), x @ params["weight"].tanh().T + params["bias"])
    assert (model.known, model.seen) == ({}, [])


def test_forward_that_writes_into_its_parameters_is_refused():
    class Clamps(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                self.weight.clamp_(-0.1, 0.1)
            return super().forward(x)

    model = Clamps(3, 3)
    with pytest.raises(ValueError, match="wrote into its tensors weight"):
        pure_forward(model)(*pb.functional_state(model), torch.ones(2, 3))


def test_errors_of_torch_name_a_way_out():
    def sampled(params, _, x):
        grid = nn.functional.affine_grid(params["w"].expand(len(x), 2, 3), x.shape, align_corners=False)
        return nn.functional.grid_sample(x, grid, align_corners=False).square().sum((1, 2, 3))

    def masked(params, _, x):
        return torch.stack([row[row > 0].sum() for row in (x * params["w"]).flatten(1)])

    params, x = {"w": torch.tensor([[0.5, 0.1, 0.1], [0.1, 0.5, 0.1]])}, torch.rand(2, 1, 3, 3)
    with pytest.raises(RuntimeError, match=r"hessian\(loss\), reverse over reverse, needs none"):
        pb.hessian(sampled, mode="forward_over_reverse")(params, {}, x, torch.ones(6))
    stacked = {"w": torch.rand(2, 1, 1)}
    with pytest.raises(RuntimeError, match="one member of the ensemble"):
        torch.vmap(pb.hessian(masked), in_dims=(0, None, None, None))(stacked, {}, x, torch.ones(1))


def test_a_model_that_was_rebuilt_since_reads_no_number_of_its_own():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).requires_grad_(False)
    forward, x = pb.pure_forward(model), torch.ones(1, 2)
    params = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    model[2] = nn.Linear(2, 2).requires_grad_(False)
    assert forward(params, {}, x).count_nonzero() == 0  # the new module has the same names
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match="multiple values"):
        forward({**params, "2.weight": torch.ones(2, 2)}, {}, x)
    model[2].register_buffer("more", torch.ones(2))
    with pytest.raises(RuntimeError, match="Missing key"):
        forward({**params, "2.weight": params["0.weight"]}, {}, x)


def test_a_module_has_its_own_tensors_back_after_an_error():
    model = nn.Linear(2, 2)
    before = dict(model.named_parameters())
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        pb.pure_forward(model)(*pb.functional_state(model), torch.ones(1, 3))
    assert all(tensor is before[name] for name, tensor in model.named_parameters())

"""The derivatives of a solution are those of the dense inverse, however few steps found it."""

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

import pure_batchops as pb
from tests.marks import compiles
from tests.matrices import log_cosh

DAMPING = torch.tensor(0.5, dtype=torch.float64)
POINT = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
BATCH = torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 2.0]], dtype=torch.float64)
BUFFERS = {"scale": torch.tensor(1.5, dtype=torch.float64)}
V = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)  # its solution takes few steps


def losses(params, buffers, x):
    return buffers["scale"] * ((params * x).square() / 2 + (params * x) ** 3 / 6 + params**4).sum(1)


def dense(params, buffers, x, damping, v):
    """The twin: the same matrix, formed by autograd, and torch's own solution."""
    matrix = jacrev(jacrev(lambda p: losses(p, buffers, x).mean()))(params)
    return torch.linalg.solve(matrix + damping * torch.eye(3, dtype=torch.float64), v)


def by_solution(params, buffers, x, damping, v):
    found = pb.conjugate_gradient_solution(pb.hessian(losses), damping, tolerance=1e-13)
    return found(params, buffers, x, v).solution


def by_conjugate_gradient(params, buffers, x, damping, v):
    return pb.conjugate_gradient(pb.hessian(losses), damping, tolerance=1e-13)(params, buffers, x, v)


def preconditioned(params, buffers, x, damping, v):
    op = pb.hessian(losses)
    inverse = pb.conjugate_gradient(op, damping, tolerance=1e-13, preconditioner=pb.nystroem(pb.damped(op, 1.0), 0.5, rank=2))
    return inverse(params, buffers, x, v)


def by_at(params, buffers, x, damping, v):
    return pb.conjugate_gradient(pb.hessian(losses), damping, tolerance=1e-13).at(params, buffers, x)(v)


def of_average(params, buffers, x, damping, v):
    op = pb.averaged(pb.hessian(losses))
    return pb.conjugate_gradient(op, damping, tolerance=1e-13)(params, buffers, [x[:1], x[1:]], v)


def directly(params, buffers, x, damping, v):
    return pb.direct(pb.hessian(losses), damping)(params, buffers, x, v)


def of_full_rank(params, buffers, x, damping, v):
    return pb.nystroem(pb.hessian(losses), damping, rank=3)(params, buffers, x, v)


def by_recursion(params, buffers, x, damping, v):
    return pb.lissa(pb.hessian(losses), damping, scale=5.0, depth=120)(params, buffers, x, v)


INVERSES = [by_conjugate_gradient, by_solution, preconditioned, by_at, of_average, directly, of_full_rank, by_recursion]
every_inverse = pytest.mark.parametrize("inverse", INVERSES)
ARGUMENTS = (POINT, BUFFERS, BATCH, DAMPING, V)
PLACES = {"params": 0, "buffers": 1, "batch": 2, "regularization": 3, "v": 4}
by_each = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
FIRST = {"reverse": jacrev, "forward": jacfwd}
SECOND = {
    "reverse over reverse": lambda f: jacrev(jacrev(f)),
    "forward over reverse": lambda f: jacfwd(jacrev(f)),
    "reverse over forward": lambda f: jacrev(jacfwd(f)),
}
ZERO = torch.zeros((), dtype=torch.float64)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def of_place(function, place, arguments=ARGUMENTS):
    return lambda x: function(*arguments[:place], x, *arguments[place + 1 :])


def along(function):
    """All arguments move at once."""

    def of(t):
        buffers = {"scale": BUFFERS["scale"] * (1 + t)}
        return function(POINT + t * V, buffers, BATCH * (1 - t), DAMPING + t, V + t * POINT)

    return of


@every_inverse
@by_each
@pytest.mark.parametrize("derivative", FIRST.values(), ids=FIRST)
def test_derivatives_are_those_of_the_dense_inverse(inverse, place, derivative):
    found, right = derivative(of_place(inverse, place))(ARGUMENTS[place]), jacrev(of_place(dense, place))(ARGUMENTS[place])
    assert_close(found, right, **CLOSE)


@every_inverse
@pytest.mark.parametrize("derivative", SECOND.values(), ids=SECOND)
def test_second_derivatives_are_those_of_the_dense_inverse(inverse, derivative):
    # torch's own derivatives of linalg.solve are wrong where forward mode is inside another one (2.13)
    assert_close(derivative(along(inverse))(ZERO), jacrev(jacrev(along(dense)))(ZERO), **CLOSE)


def test_third_derivatives_are_those_of_the_dense_inverse():
    third = lambda f: grad(grad(grad(lambda t: along(f)(t).sum())))(ZERO)  # noqa: E731
    assert_close(third(by_conjugate_gradient), third(dense), **CLOSE)


def test_forward_mode_inside_forward_mode_is_refused():
    with pytest.raises(RuntimeError, match="must be differentiated by forward mode once, .* such as jacfwd.jacrev"):
        jacfwd(jacfwd(along(by_conjugate_gradient)))(ZERO)


@every_inverse
def test_plain_autograd_differentiates_as_often_as_it_likes(inverse):
    def slopes(function):
        leaves = [x.clone().requires_grad_() for x in (POINT, DAMPING, V)]
        (total,) = (function(leaves[0], BUFFERS, BATCH, leaves[1], leaves[2]) ** 2).sum()[None]
        for _ in range(2):
            found = torch.autograd.grad(total, leaves, create_graph=True)
            total = sum((part * (i + 1)).sum() for i, part in enumerate(found))
        return found

    assert_close(slopes(inverse), slopes(dense), **CLOSE)


@pytest.mark.parametrize("inverse", [by_conjugate_gradient, preconditioned, directly, of_full_rank])
def test_derivatives_of_members_are_the_loop_over_them(inverse):
    members = torch.stack([POINT, 2 * POINT, -POINT])
    dampings = torch.stack([DAMPING, 2 * DAMPING, 3 * DAMPING])
    for derivative in (jacrev, jacfwd):
        of_one = lambda p, d, derivative=derivative: derivative(  # noqa: E731
            lambda q: inverse(q, BUFFERS, BATCH, d, V)
        )(p)
        together = vmap(of_one)(members, dampings)
        assert_close(together, torch.stack([of_one(*one) for one in zip(members, dampings, strict=True)]), **CLOSE)
    inside = lambda ps: vmap(lambda p, d: inverse(p, BUFFERS, BATCH, d, V))(ps, dampings)  # noqa: E731
    truth = lambda ps: torch.stack(  # noqa: E731
        [dense(p, BUFFERS, BATCH, d, V) for p, d in zip(ps, dampings, strict=True)]
    )
    for derivative in (jacrev, jacfwd, lambda f: jacrev(jacrev(f))):
        assert_close(derivative(inside)(members), derivative(truth)(members), **CLOSE)
    leaf = members.clone().requires_grad_()
    assert_close(torch.autograd.grad(inside(leaf).sum(), leaf), torch.autograd.grad(truth(leaf).sum(), leaf), **CLOSE)


@every_inverse
def test_right_hand_sides_have_derivatives_of_their_own(inverse):
    rows = torch.stack([V, POINT, torch.zeros_like(V)])
    both = lambda p, v: (inverse(p, BUFFERS, BATCH, DAMPING, v)[1:]).sum()  # noqa: E731
    right = lambda p, v: sum(dense(p, BUFFERS, BATCH, DAMPING, row) for row in v[1:]).sum()  # noqa: E731
    assert_close(grad(both, (0, 1))(POINT, rows), grad(right, (0, 1))(POINT, rows), **CLOSE)


@every_inverse
def test_forward_mode_of_the_caller_passes_through(inverse):
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(POINT, V)
        tangent = forward_ad.unpack_dual(inverse(dual, BUFFERS, BATCH, DAMPING, V)).tangent
    assert_close(tangent, jvp(lambda p: dense(p, BUFFERS, BATCH, DAMPING, V), (POINT,), (V,))[1], **CLOSE)


CLOSING = {
    "conjugate_gradient": lambda op: pb.conjugate_gradient(op, DAMPING, tolerance=1e-13),
    "direct": lambda op: pb.direct(op, DAMPING),
}


def of_closed(inverse, scale):
    op = pb.hessian(lambda p, _, x: scale * (x * p).square().sum(1) / 2 + scale**2 * p.sum() ** 4)
    return CLOSING[inverse](op)(POINT, {}, BATCH, V)


def test_what_the_loss_closes_over_is_differentiated_too_or_refused():
    scale = BUFFERS["scale"]
    found, right = ((lambda s, name=name: of_closed(name, s)) for name in CLOSING)
    for derivative in FIRST.values():
        assert_close(derivative(found)(scale), derivative(right)(scale), **CLOSE)
    with pytest.raises(RuntimeError, match="op must not close over .* hand it over in params, buffers or batch"):
        jacrev(jacrev(found))(scale)
    leaf = scale.clone().requires_grad_()
    (first,) = torch.autograd.grad(found(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first, leaf)
    assert_close(second, jacrev(jacrev(right))(scale).sum(), **CLOSE)
    members = torch.stack([scale, 2 * scale])
    assert_close(vmap(jacrev(found))(members), torch.stack([jacrev(right)(one) for one in members]), **CLOSE)


def test_solution_is_not_recorded_where_nobody_differentiates():
    count = []

    def op(params, buffers, batch, v):
        count.append(1)
        return 3 * v

    v = torch.ones(2, dtype=torch.float64)
    pb.conjugate_gradient(op, 1.0)(torch.zeros(2).double(), {}, None, v)
    assert len(count) == 2  # one step, and the residual


@compiles
def test_compiled_derivatives_are_nan():
    inverse = pb.conjugate_gradient(pb.gauss_newton(log_cosh), DAMPING, max_steps=1, tolerance=0.99)
    for slope in (
        lambda p, v: grad(lambda q: inverse(q, {}, BATCH, v).sum())(p),
        grad(lambda p, v: inverse(p, {}, BATCH, v).sum(), 1),
    ):
        torch._dynamo.reset()
        compiled = torch.compile(slope, fullgraph=True, backend="aot_eager")
        assert compiled(POINT, V).isnan().all()

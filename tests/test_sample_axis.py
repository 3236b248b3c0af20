"""The rules of sample_axis: where one says that a call keeps the samples apart, the Jacobian agrees."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.testing import assert_close

from pure_batchops.sample_axis.axis import SampleAxis, first, regrouped
from pure_batchops.sample_axis.rules import RULES

N = 3
x3, x4 = (N, 4, 3), (N, 2, 4, 3)
w, image = torch.randn(5, 3).double(), torch.randn(2, 2, 2, 2).double()

# A call of x with the samples along some axis: the function, the shape of x, its other arguments, and the keywords.
CALLS = {
    "tanh": (torch.tanh, x3, (), {}),
    "add a row": (torch.add, x3, (torch.randn(3).double(),), {}),
    "mul": (torch.Tensor.__mul__, x3, (torch.randn(4, 1).double(),), {}),
    "where": (torch.where, (N, 3, 3), (torch.zeros(()).double(),), {"swap": True}),
    "sum": (torch.sum, x3, (1,), {}),
    "sum of all": (torch.sum, x3, (), {}),
    "mean, kept": (torch.mean, x3, ((-1, 1),), {"keepdim": True}),
    "var": (torch.Tensor.var, x3, (0,), {}),
    "unbiased": (torch.var, x3, (True,), {}),
    "max": (torch.max, x3, (2,), {}),
    "logsumexp": (torch.logsumexp, x3, (-1,), {}),
    "norm": (torch.norm, x3, (2, 1), {}),
    "linalg norm": (torch.linalg.vector_norm, x3, (2, -1), {}),
    "normalize": (F.normalize, x3, (), {}),
    "softmax": (F.softmax, x3, (1,), {}),
    "log_softmax": (torch.log_softmax, x3, (-1,), {}),
    "cumsum": (torch.cumsum, x3, (0,), {}),
    "sort": (torch.sort, x3, (), {}),
    "glu": (F.glu, (N, 4, 2), (), {}),
    "view": (torch.Tensor.view, x3, (N * 4, 3), {}),
    "reshape": (torch.reshape, x3, ((3, 4, 3),), {}),
    "regroup": (torch.reshape, x3, ((2, 18),), {}),
    "flatten": (torch.flatten, x4, (1,), {}),
    "unflatten": (torch.Tensor.unflatten, x3, (1, (2, 2)), {}),
    "unsqueeze": (torch.unsqueeze, x3, (0,), {}),
    "transpose": (torch.transpose, x3, (0, 1), {}),
    "permute": (torch.permute, x4, ((2, 0, -1, 1),), {}),
    "movedim": (torch.movedim, x4, (0, 2), {}),
    "mT": (torch.Tensor.mT.__get__, x3, (), {}),
    "T": (torch.Tensor.T.__get__, (N, 4), (), {}),
    "split": (torch.split, x3, (2, 1), {}),
    "chunk": (torch.chunk, x3, (2,), {}),
    "narrow": (torch.narrow, x3, (1, 1, 2), {}),
    "repeat_interleave": (torch.repeat_interleave, x3, (2,), {}),
    "repeat_interleave along": (torch.repeat_interleave, x3, (2, 1), {}),
    "roll": (torch.roll, x3, (1, 0), {}),
    "roll all": (torch.roll, x3, (1,), {}),
    "flip": (torch.flip, x3, ((1, 2),), {}),
    "select": (torch.select, x3, (1, 2), {}),
    "unbind": (torch.unbind, x3, (), {}),
    "unbind the last": (torch.unbind, x3, (-1,), {}),
    "first row": (torch.Tensor.__getitem__, x3, (0,), {}),
    "a column": (torch.Tensor.__getitem__, x3, ((slice(None), 0),), {}),
    "a new axis": (torch.Tensor.__getitem__, x3, ((None, slice(None), Ellipsis, slice(0, 2)),), {}),
    "all but one": (torch.Tensor.__getitem__, x3, (slice(1, None),), {}),
    "by numbers": (torch.Tensor.__getitem__, x3, (torch.tensor([1, 0, 2]),), {}),
    "expand": (torch.Tensor.expand, (N, 1, 3), (2, N, 4, 3), {}),
    "repeat": (torch.Tensor.repeat, x3, (2, 1, 2, 1), {}),
    "repeat samples": (torch.Tensor.repeat, x3, (2, 1, 1), {}),
    "pad": (F.pad, x3, ((1, 1),), {}),
    "pad all": (F.pad, x3, ((1, 1, 0, 0, 1, 0),), {}),
    "linear": (F.linear, x3, (w,), {}),
    "matmul": (torch.matmul, x3, (w.T,), {}),
    "matmul a vector": (torch.Tensor.matmul, x3, (w[0],), {}),
    "matmul on the left": (torch.matmul, (N, 3, 3), (torch.randn(2, 3).double(),), {"swap": True}),
    "matmul, square": (torch.matmul, x3, (torch.randn(3, 3).double(),), {}),
    "matmul, square, on the left": (torch.matmul, (N, 3, 3), (torch.randn(3, 3).double(),), {"swap": True}),
    "linear, square": (F.linear, x3, (w[:3],), {}),
    "attention, square": (F.scaled_dot_product_attention, (N, 2, 3, 3), (torch.randn(3, 3).double(),) * 2, {}),
    "bmm": (torch.bmm, (N, 3, 3), (torch.randn(3, 3, 2).double(),), {}),
    "conv2d": (F.conv2d, x4, (image,), {}),
    "conv of no batch": (F.conv2d, (2, 4, 3), (image,), {}),
    "conv_transpose": (F.conv_transpose2d, x4, (image,), {}),
    "max_pool2d": (F.max_pool2d, x4, (2,), {}),
    "adaptive pool": (F.adaptive_avg_pool2d, x4, (1,), {}),
    "interpolate": (F.interpolate, x4, (), {"scale_factor": 2}),
    "layer_norm": (F.layer_norm, x3, ((3,),), {}),
    "layer_norm of all": (F.layer_norm, x3, (x3,), {}),
    "group_norm": (F.group_norm, x4, (1,), {}),
    "batch_norm": (F.batch_norm, x4, (torch.zeros(2).double(), torch.ones(2).double()), {}),
    "batch_norm in training": (F.batch_norm, x4, (None, None), {"training": True}),
    "attention": (F.scaled_dot_product_attention, x4, (torch.randn(4, 3).double(), torch.randn(4, 3).double()), {}),
    "cross_entropy": (F.cross_entropy, x3, (torch.zeros(N, 3).long(),), {"reduction": "none"}),
    "mean cross_entropy": (F.cross_entropy, x3, (torch.zeros(N, 3).long(),), {}),
    "mse": (F.mse_loss, x3, (torch.zeros(x3).double(),), {"reduction": "none"}),
}
MIXES = {
    "sum of all",
    "unbiased",
    "regroup",
    "first row",
    "all but one",
    "by numbers",
    "repeat samples",
    "pad all",
    "roll all",
}
MIXES |= {"conv of no batch", "layer_norm of all", "batch_norm in training", "mean cross_entropy", "var", "cumsum", "roll"}
MIXES |= {"chunk", "unbind", "repeat_interleave"}
"""With the samples along axis 0, these do not keep them apart, or not in a known place."""


def placed(function, args, kwargs, axis, x):
    """Where the samples lie in the output, if they lie along this axis of x."""
    where = SampleAxis(axis, 1, x.shape[axis], 1)
    options = {name: value for name, value in kwargs.items() if name != "swap"}
    return RULES[function](lambda part: where if part is x else None, args, options, function(*args, **options))


def arguments(x, others, kwargs, function):
    if "swap" not in kwargs:
        return (x, *others)
    return (x > 0, x, *others) if function is torch.where else (*others, x)


@pytest.mark.parametrize("name", CALLS)
def test_a_rule_that_keeps_samples_apart_agrees_with_the_jacobian(name):
    function, shape, others, kwargs = CALLS[name]
    torch.manual_seed(0)
    x = torch.randn(shape).double()
    known = set()
    for axis in range(x.dim()):
        try:
            where = placed(function, arguments(x, others, kwargs, function), kwargs, axis, x)
        except RuntimeError:  # this shape does not fit the function
            continue
        if where is None:
            continue
        known.add(axis)
        options = {key: value for key, value in kwargs.items() if key != "swap"}

        def samples(x, options=options, where=where):
            result = function(*arguments(x, others, kwargs, function), **options)
            result = result if isinstance(result, torch.Tensor) else result[0]
            return first(result, where).flatten(1)

        jacobian = torch.autograd.functional.jacobian(samples, x)  # (n, numbers of a sample, *x)
        of_samples = jacobian.movedim(2 + axis, 1).flatten(2)
        assert len(jacobian) == x.shape[axis]
        off = ~torch.eye(x.shape[axis], dtype=torch.bool)
        assert not of_samples[off].any(), f"axis {axis}"
    assert (0 in known) == (name not in MIXES)


@pytest.mark.parametrize(
    ("shape", "axis", "new"), [((6, 4), 0, (3, 2, 4)), ((2, 6, 5), 1, (12, 5)), ((12, 5), 0, (3, 2, 2, 5))]
)
def test_samples_are_found_in_any_grouping_of_the_numbers(shape, axis, new):
    where = SampleAxis(axis, 1, 3, shape[axis] // 3)
    owner = (torch.arange(shape[axis]) // where.after) % 3
    owners = owner.reshape([-1 if k == axis else 1 for k in range(len(shape))]).expand(shape)
    found = regrouped(shape, where, new)
    assert found is not None
    rows = first(owners.reshape(new), found)
    assert_close(rows, torch.arange(3).reshape(3, *[1] * (rows.dim() - 1)).expand(rows.shape))
    assert regrouped((3, 4), SampleAxis(0, 1, 3, 1), (2, 6)) is None

"""A compiled operation serves batches of any size: it compiles for the first size, once more for the second, then no more."""

import pytest
import torch
from torch import nn

import pure_batchops as pb
from tests.marks import compiles


@compiles
@pytest.mark.parametrize("name", ["hessian", "generalized_gauss_newton"])
def test_batches_of_many_sizes_are_compiled_twice(name):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    params, buffers = pb.functional_state(model)
    criterion = nn.CrossEntropyLoss()
    op = {
        "hessian": pb.hessian(pb.sample_losses(model, criterion)),
        "generalized_gauss_newton": pb.generalized_gauss_newton(model, criterion),
    }[name]
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    compiled, v = torch.compile(op, fullgraph=True, backend=counting), torch.randn(115)
    for n in (64, 12, 20, 300, 7):
        batch = (torch.randn(n, 10), torch.randint(3, (n,)))
        torch.testing.assert_close(compiled(params, buffers, batch, v), op(params, buffers, batch, v))
    assert len(graphs) <= 2

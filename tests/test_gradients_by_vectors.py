"""A product of K vectors has the gradient by the vectors that the products one by one have."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.strategies import flat, problem, vectors
from tests.tables import Row, every_row

FORMS = {
    "rows": lambda op, p, v: op(p.params, p.buffers, p.batch, v),
    "at": lambda op, p, v: op.at(p.params, p.buffers, p.batch)(v),
    "vmap": lambda op, p, v: torch.vmap(lambda row: op(p.params, p.buffers, p.batch, row))(v),
    "vmap of at": lambda op, p, v: torch.vmap(op.at(p.params, p.buffers, p.batch))(v),
}


@every_row
@pytest.mark.parametrize("form", FORMS)
def test_gradient_by_many_vectors_is_that_of_one_after_the_other(row: Row, form: str) -> None:
    p = problem("perceptron", 3)
    op, v = row.operation(p), flat(vectors(p.params, 2, 0), 2)

    def gradient(products: Any) -> Any:
        leaf = v.clone().requires_grad_()
        product = products(leaf)
        return product.detach(), torch.autograd.grad((product.sin() * torch.arange(1.0, 1 + p.numbers)).sum(), leaf)[0]

    expected = gradient(lambda leaf: torch.stack([op(p.params, p.buffers, p.batch, each) for each in leaf]))
    assert_close(gradient(lambda leaf: FORMS[form](op, p, leaf)), expected, **row.tolerance)

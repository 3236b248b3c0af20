"""The law of a dense twin: the products are those of a matrix that the user computes slowly and obviously."""

import torch

from pure_batchops.testing.agreement import agree
from pure_batchops.testing.case import Case, copied, product, states, vector
from pure_batchops.trees import leaves, rebuilt

_VECTORS = 3


def twin(case: Case) -> bool:
    """The product must be that of the dense twin, at params and buffers and at others near them."""
    if case.twin is None:
        return False
    v = vector(case, 1, _VECTORS)
    likes = leaves(case.params)
    rows = torch.cat([leaf.detach().cpu().double().flatten(1) for leaf in leaves(v)], 1)
    for i, (params, buffers) in enumerate(states(case)):
        matrix = case.twin(*map(copied, (params, buffers, case.batch)))
        size = rows.shape[1]
        if matrix.shape != (size, size):
            msg = f"got a twin of shape {tuple(matrix.shape)} for {size} numbers in params; it must return the matrix (D, D)"
            raise AssertionError(msg)
        images = (rows @ matrix.detach().cpu().double().mT).split([like.numel() for like in likes], 1)
        expected = rebuilt(
            case.params, [image.reshape(-1, *like.shape).to(like) for image, like in zip(images, likes, strict=True)]
        )
        where = f"near them, of member {i}" if i else "at params and buffers"
        agree(product(case._replace(params=params, buffers=buffers), v), expected, case.tolerance, where)
    return True

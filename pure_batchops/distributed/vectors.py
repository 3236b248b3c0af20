"""The K vectors of an operation divided among the ranks."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from pure_batchops import checks
from pure_batchops.distributed.ranks import Group, check_group, computed_on_all, in_time, rank_and_size
from pure_batchops.operations.derived import derived
from pure_batchops.trees import leaves, map_leaves, rebuilt
from pure_batchops.types import Operation, Params, Tree, Vector
from pure_batchops.vectors import vector_form


def sharded_vectors(op: Operation, group: Group = None) -> Operation:
    """The operation with the K vectors divided among the ranks, m(batch) · v: each multiplies its share, all are gathered.

    Args:
        op: any operation whose product has the form of v, so not one under vmap; also an average or a solver.
        group: the ranks, of the backend gloo or nccl; by default all.

    Returns:
        `op(params, buffers, batch, v) -> product`, called on all ranks together, with the same arguments: v of K ≥ 0 vectors,
        as rows or as a tree; shares differ by one vector at most. A vector without an axis is multiplied on all ranks alike.
        The product of all K is the same on all ranks, bit for bit.

    Raises:
        TypeError: if op is no function, or group no process group.
        ValueError: by the operation, if the product has not the form of v, if params or v are seen to differ between ranks,
            and where op does on this rank.
        RuntimeError: by the operation, if another rank raised an error, which it names, or did not come within the timeout.

    Examples:
        >>> import tempfile
        >>> from pure_batchops import gauss_newton
        >>> place = f"file://{tempfile.mktemp()}"
        >>> dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
        >>> op = sharded_vectors(gauss_newton(lambda params, buffers, x: params * x))
        >>> op(torch.tensor([1.0]), {}, torch.tensor([1.0, 2.0]), torch.tensor([[2.0], [4.0]]))
        tensor([[ 5.],
                [10.]])
        >>> dist.destroy_process_group()
    """
    checks.function("op", op)
    check_group(group)

    def gathered(multiply: Callable[[Vector], Vector], params: Params, v: Vector) -> Vector:
        rank, size = rank_and_size(group)

        def share() -> tuple[Tree, int | None]:
            form = vector_form(params, v)
            ordered = v if isinstance(v, Tensor) else form.tree()
            if form.vectors is None:
                return multiply(ordered), None
            own = map_leaves(lambda leaf: leaf.tensor_split(size)[rank], ordered)
            found = multiply(own)  # of no vectors too: an average around must know the weight of the batch on every rank
            _check_form(found, own)
            return found, form.vectors

        (found, count), counts = computed_on_all(share, lambda shared: shared[1], params, v, group)
        if any(other != count for other in counts):
            msg = f"v must hold the same number of vectors on all ranks, got {', '.join(map(str, counts))}"
            raise ValueError(msg)
        return _gathered(found, count, size, group) if count else found

    return derived(op, gathered)


def _check_form(product: Tree, v: Tree) -> None:
    shapes, expected = ([tuple(leaf.shape) for leaf in leaves(tree)] for tree in (product, v))
    if shapes != expected:
        msg = (
            f"the product must have the shapes {expected} of the vectors of this rank, got {shapes}; an operation over an "
            "ensemble cannot be sharded"
        )
        raise ValueError(msg)


def _gathered(own: Tree, count: int, size: int, group: Group) -> Tree:
    """The rows of all ranks, gathered as bytes: one collective, whatever the dtypes."""
    parts, rows, device = leaves(own), len(leaves(own)[0]), leaves(own)[0].device
    numbers = [part.shape[1:].numel() for part in parts]
    columns = [n * part.element_size() for n, part in zip(numbers, parts, strict=True)]
    mine = torch.zeros(-(-count // size), sum(columns), dtype=torch.uint8, device=device)
    for place_of, part, n in zip(mine.split(columns, 1), parts, numbers, strict=True):
        place_of[:rows] = part.contiguous().reshape(rows, n).view(torch.uint8).to(device)
    everyone = [torch.empty_like(mine) for _ in range(size)]
    with in_time(group):
        dist.all_gather(everyone, mine, group=group)
    shares = [len(share) for share in torch.empty(count).tensor_split(size)]
    together = torch.cat([rows_of[:share] for rows_of, share in zip(everyone, shares, strict=True)])

    def leaf_of(content: Tensor, like: Tensor) -> Tensor:
        aligned = content.clone(memory_format=torch.contiguous_format)
        return aligned.view(like.dtype).reshape(count, *like.shape[1:]).to(like.device)

    return rebuilt(own, [leaf_of(*pair) for pair in zip(together.split(columns, 1), parts, strict=True)])

"""The K vectors of an operation divided among the ranks."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from pure_batchops import checks, tracing
from pure_batchops.distributed.derivatives import refuse_transforms
from pure_batchops.distributed.ranks import Group, check_group, computed_on_all, rank_and_size, timeout_explained
from pure_batchops.operations.derived import derived
from pure_batchops.trees import leaves, map_leaves, rebuilt
from pure_batchops.types import Operation, Params, Tree, Vector
from pure_batchops.vectors import vector_form


def sharded_vectors(op: Operation, group: Group = None) -> Operation:
    """The operation with the K vectors divided among the ranks, m(batch) · v.

    Each rank multiplies its share of the vectors. Then all ranks gather the products.

    Args:
        op: any operation whose product has the form of v, also an average or a solver. An operation under vmap has another
            form.
        group: the ranks, a process group on gloo or nccl; by default all processes.

    Returns:
        `op(params, buffers, batch, v) -> product`, called on all ranks together, with the same arguments. v holds K ≥ 0
        vectors, as rows or as a tree. Shares differ by at most one vector. If v is one vector without an axis, every rank
        multiplies it. The product of all K vectors is the same on all ranks, bit for bit.

    Raises:
        TypeError: if op is no function, or group is no process group.
        ValueError: by the operation, if the product does not have the form of v, if it requires gradients, or if params or v
            differ between ranks (some of their numbers are compared). Also where op raises it on this rank.
        RuntimeError: by the operation, if another rank raised an error (the message gives that error), ended, or was later
            than the timeout.

    Examples:
        >>> import tempfile
        >>> from pure_batchops import gauss_newton
        >>> store = f"file://{tempfile.mktemp()}"
        >>> dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
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
            refuse_transforms()
            form = vector_form(params, v)
            ordered = v if isinstance(v, Tensor) else form.tree()
            if form.vectors is None:
                return multiply(ordered), None
            own_vectors = map_leaves(lambda leaf: leaf.tensor_split(size)[rank], ordered)
            product = multiply(own_vectors)  # even without vectors: an average around needs the batch's weight on every rank
            _check_form(product, own_vectors)
            _refuse_gradients(params, v, product)
            return product, form.vectors

        (own_product, count), counts = computed_on_all(share, lambda shared: shared[1], params, v, group)
        if any(other != count for other in counts):
            msg = f"v must hold the same number of vectors on all ranks, got {', '.join(map(str, counts))}"
            raise ValueError(msg)
        return _gathered(own_product, count, size, group) if count else own_product

    return derived(op, gathered)


def _check_form(product: Tree, v: Tree) -> None:
    shapes, expected = ([tuple(leaf.shape) for leaf in leaves(tree)] for tree in (product, v))
    if shapes != expected:
        msg = (
            f"the product must have the shapes {expected} of the vectors of this rank, got {shapes}; an operation over an "
            "ensemble cannot be sharded"
        )
        raise ValueError(msg)


def _refuse_gradients(*trees: Tree) -> None:
    if any(tracing.requires_grad(tree) for tree in trees):
        msg = (
            "a product of sharded vectors must not require gradients, which would be those of this rank alone, got params, v "
            "or a product that does; detach params, buffers and v, or multiply inside torch.no_grad"
        )
        raise ValueError(msg)


def _gathered(own_product: Tree, count: int, size: int, group: Group) -> Tree:
    """The rows of all ranks. They are gathered as bytes, so that one collective serves all dtypes."""
    parts = leaves(own_product)
    rows, device = len(parts[0]), parts[0].device
    numbers = [part.shape[1:].numel() for part in parts]
    columns = [n * part.element_size() for n, part in zip(numbers, parts, strict=True)]
    own_bytes = torch.zeros(-(-count // size), sum(columns), dtype=torch.uint8, device=device)
    for target, part, n in zip(own_bytes.split(columns, 1), parts, numbers, strict=True):
        target[:rows] = part.contiguous().reshape(rows, n).view(torch.uint8).to(device)
    bytes_by_rank = [torch.empty_like(own_bytes) for _ in range(size)]
    with timeout_explained(group):
        dist.all_gather(bytes_by_rank, own_bytes, group=group)
    shares = [len(share) for share in torch.empty(count).tensor_split(size)]
    all_bytes = torch.cat([content[:share] for content, share in zip(bytes_by_rank, shares, strict=True)])

    def leaf_of(content: Tensor, like: Tensor) -> Tensor:
        aligned = content.clone(memory_format=torch.contiguous_format)
        return aligned.view(like.dtype).reshape(count, *like.shape[1:]).to(like.device)

    return rebuilt(own_product, [leaf_of(*pair) for pair in zip(all_bytes.split(columns, 1), parts, strict=True)])

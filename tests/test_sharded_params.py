"""The recipes of the page for parameters that do not fit one device, on two real processes."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing import assert_close

import pure_batchops as pb
from tests import processes
from tests.pages import ROOT, recipe

PAGE = ROOT / "pure_batchops/distributed/README.md"
DTENSOR, FSDP = recipe(PAGE, "DTensor"), recipe(PAGE, "FSDP2")
VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
SIZE = 2


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    with processes.ranks(SIZE, tmp_path_factory.mktemp("group")) as run:
        yield run


def names():
    """The names that the recipes start from, the same on all ranks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4)).double().eval()
    criterion = nn.CrossEntropyLoss()
    params, buffers = pb.functional_state(model)
    batch = (torch.randn(6, 6, dtype=torch.float64), torch.randint(4, (6,)))
    v = {name: torch.randn_like(leaf) for name, leaf in params.items()}
    loss = pb.sample_losses(model, criterion)
    return {"torch": torch, "dist": dist, "pb": pb, **locals()}


def product_of(rank, text, factory):
    torch.set_num_threads(1)
    known = names()
    expected = pb.hessian(known["loss"])(known["params"], known["buffers"], known["batch"], known["v"])
    if factory is None:
        known["batch"] = tuple(part[rank::SIZE] for part in known["batch"])
        known["model"] = copy.deepcopy(known["model"])
        exec(text, known)
    else:
        expected = getattr(pb, factory)(known["loss"])(known["params"], known["buffers"], known["batch"], known["v"])
        exec(text.replace("pb.hessian(", f"pb.{factory}("), known)
    held = max(leaf.to_local().numel() / leaf.numel() for leaf in known["product"].values())
    return {name: leaf.full_tensor() for name, leaf in known["product"].items()}, expected, held


def succeeded(answers):
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


@pytest.mark.skipif(
    VERSION < (2, 13), reason="DTensor needs ReduceOp.AVG on gloo, which torch 2.5 has not; then tried on 2.13"
)
@pytest.mark.parametrize("factory", ["hessian", "gauss_newton"])
def test_products_of_sharded_params_are_those_of_whole_ones(everywhere, factory):
    for found, expected, held in succeeded(everywhere(product_of, DTENSOR, factory)):
        assert_close(found, expected)
        assert held == 1 / SIZE


@pytest.mark.skipif(VERSION < (2, 13), reason="fully_shard on CPU fails on torch 2.5 and was tried on 2.13 alone")
def test_finite_difference_hessian_over_fsdp_is_that_of_one_process(everywhere):
    for found, expected, held in succeeded(everywhere(product_of, FSDP, None)):
        assert_close(found, expected, rtol=1e-6, atol=1e-8)  # the error of the finite difference
        assert held == 1 / SIZE

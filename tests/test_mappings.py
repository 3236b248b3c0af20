"""Batches of a `UserDict`, such as `transformers.BatchEncoding`, are dicts to everything, and keep their class."""

from collections import UserDict
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import pure_batchops as pb
from pure_batchops.trees import leaves, map_leaves, move, named_leaves
from tests.tables import each

PARAMS = {"w": torch.linspace(-1, 1, 3, dtype=torch.float64)}
V = torch.linspace(1, 2, 3, dtype=torch.float64)


class Encoding(UserDict):
    """A mapping whose entries are attributes, with one of its own."""

    tokenizer = "words"

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


def loss(params: Any, buffers: Any, batch: Any) -> Any:
    inputs = batch["inputs"]["x"] if isinstance(batch, dict) else batch.inputs["x"]
    return ((inputs @ params["w"]).tanh() - batch["y"]).square()


def batches(kind: Any) -> list[Any]:
    torch.manual_seed(0)
    return [
        kind({"inputs": kind({"x": torch.randn(n, 3).double()}), "y": torch.randn(n).double(), "text": "a b"})
        for n in (1, 4, 2)
    ]


def bare(params: Any, buffers: Any, batch: Any, v: Any) -> Any:
    return v * batch["y"].mean()


RESULTS = {
    "hessian": lambda data: pb.averaged(pb.hessian(loss))(PARAMS, {}, data, V),
    "gauss_newton": lambda data: pb.averaged(pb.gauss_newton(loss))(PARAMS, {}, data, V),
    "inverse_harmonic_mean": lambda data: pb.averaged(pb.inverse_harmonic_mean(loss, 0.1, chunk_size=2))(PARAMS, {}, data, V),
    "bare": lambda data: pb.averaged(bare, pb.n_points)(PARAMS, {}, data, V),
    "influence": lambda data: pb.influence(pb.averaged(pb.inverse_harmonic_mean(loss, 0.1)), loss)(PARAMS, {}, data, data[1]),
}


@each(RESULTS, "result")
def test_results_over_mappings_are_those_over_dicts(result: Any) -> None:
    assert_close(result(batches(Encoding)), result(batches(dict)))


def test_mapping_is_moved_to_the_device_and_keeps_its_class_and_its_own_numbers():
    (one, *_) = batches(Encoding)
    moved = move(one, torch.device("meta"))
    assert isinstance(moved, Encoding)
    assert isinstance(moved.inputs, Encoding)
    assert moved.inputs["x"].device.type == moved.y.device.type == "meta"
    assert moved.text == "a b"
    assert one.y.device.type == one.inputs["x"].device.type == "cpu"


def test_leaves_of_mappings_have_the_names_of_their_keys():
    tree = (Encoding(a=torch.ones(2), b=Encoding(c=torch.zeros(1))), {"d": torch.ones(3)})
    assert list(named_leaves(tree)) == [("[0]", "a"), ("[0]", "b", "c"), ("[1]", "d")]
    assert [leaf.numel() for leaf in leaves(tree)] == [2, 1, 3]
    doubled = map_leaves(lambda leaf: 2 * leaf, tree)
    assert isinstance(doubled[0].b, Encoding)
    assert_close(doubled[0].a, 2 * torch.ones(2))
    assert leaves(Encoding()) == []


def test_encoding_of_transformers_is_a_batch():
    transformers = pytest.importorskip("transformers", reason="an optional peer")
    plain, encoded = batches(dict), batches(transformers.BatchEncoding)
    for result in RESULTS.values():
        assert_close(result(encoded), result(plain))
    assert isinstance(move(encoded[0], torch.device("meta")), transformers.BatchEncoding)

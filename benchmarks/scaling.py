"""Averages over 1, 2 and 4 processes, measured and predicted: `python -m benchmarks.scaling`. The page is scaling.md."""

import argparse
import math
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

import pure_batchops as pb
from benchmarks.cases.models import perceptron
from benchmarks.cases.problems import Recipe, pieces, problem_of, vectors
from benchmarks.pictures.scaling import draw_scaling
from benchmarks.times import Call, Effort, in_turn
from pure_batchops import distributed

LAYERS = {"D = 101,770": (784, 128, 10), "D = 669,706": (784, 512, 512, 10)}
BATCHES, SAMPLES, RANKS = 16, 128, (1, 2, 4)


class Machine(NamedTuple):
    """What ranks share.

    Attributes:
        crowd: how many times slower a rank is when P ranks compute at once; on an idle machine max(1, P/cores).
        latency: seconds of the exchange before an all-reduce, for each rank after the first.
        bandwidth: bytes per second that a rank sends, and receives, in an all-reduce.
    """

    crowd: dict[int, float]
    latency: float
    bandwidth: float


class Row(NamedTuple):
    """The seconds of one product with a model over this number of ranks."""

    model: str
    ranks: int
    predicted: float
    measured: float


def predicted(ranks: int, batches: int, batch_seconds: float, numbers: int, machine: Machine, wide: int = 8) -> float:
    """The seconds of one product: the batches of the slowest rank, and one ring all-reduce of its numbers.

    Args:
        ranks: P.
        batches: B, over all ranks together.
        batch_seconds: t, the seconds of the product with one batch on one rank alone; K vectors take K times as long.
        numbers: K · D.
        machine: what the ranks share.
        wide: bytes of each number: 8 for float32 products, 4 for bfloat16 ones.

    Returns:
        ⌈B/P⌉ t crowd + (P − 1) latency + 2 (P − 1)/P · K D wide / bandwidth.
    """
    talk = (ranks - 1) * machine.latency + 2 * (ranks - 1) / ranks * numbers * wide / machine.bandwidth
    return math.ceil(batches / ranks) * batch_seconds * machine.crowd[ranks] + talk


def measured(sizes: Sequence[int], batches: int, rounds: int) -> dict[str, float]:
    """The seconds that the model needs, all taken in turn on one group of processes: medians over the rounds.

    Returns:
        `alone P`: the local average of P ranks at once, without communication. `product P`: the average over P ranks.
        `exchange 2`: an average of one number over two ranks. `reduction 2`: an all-reduce of 10⁶ float64 over two.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "torch._dynamo"])  # imported once
        arguments = folder, sizes, batches, rounds
        multiprocessing.start_processes(_member, arguments, max(RANKS), start_method="forkserver")
        return torch.load(Path(folder) / "medians.pt", weights_only=True)


def _member(rank: int, folder: str, sizes: Sequence[int], batches: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=max(RANKS))
    calls = _calls(rank, sizes, batches)
    # Each rank must make the same calls: none may repeat one, or stop early. Idle ranks wait without computing.
    turns = in_turn(list(calls.values()), Effort(rounds, seconds=math.inf, least_seconds=0.0), before=dist.barrier)
    if rank == 0:
        torch.save({name: turns.median(i) for i, name in enumerate(calls)}, Path(folder) / "medians.pt")
    dist.barrier()
    dist.destroy_process_group()


def _calls(rank: int, sizes: Sequence[int], batches: int) -> dict[str, Call]:
    """The calls of this rank; those that only other ranks make do nothing here."""
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in RANKS}
    model = partial(perceptron, *sizes, activation=nn.Tanh)
    problem = problem_of("scaling", Recipe(model, sizes[:1], sizes[-1], SAMPLES * batches))
    op, data = pb.hessian(problem.loss), pieces(problem.batch, SAMPLES)
    point, v = (problem.params, problem.buffers), vectors(problem)
    identity = pb.batch_operation(lambda _params, _buffers, _x: lambda u: u)
    one, large = torch.ones(1), torch.ones(10**6, dtype=torch.float64)
    calls: dict[str, Call] = {}
    for ranks, group in groups.items():
        calls[f"alone {ranks}"] = partial(pb.averaged(op), *point, data[:: max(RANKS)], v)
        calls[f"product {ranks}"] = partial(distributed.averaged(op, group), *point, data[rank::ranks], v)
    calls["exchange 2"] = partial(distributed.averaged(identity, groups[2]), one, {}, [one], one)
    calls["reduction 2"] = partial(dist.all_reduce, large, group=groups[2])
    return {name: call if rank < int(name.split()[1]) else _idle for name, call in calls.items()}


def _idle() -> None:
    return


def rows_of(name: str, sizes: Sequence[int], batches: int, rounds: int) -> list[Row]:
    """The seconds predicted and measured, for each number of ranks."""
    seconds = measured(sizes, batches, rounds)
    crowd = {ranks: seconds[f"alone {ranks}"] / seconds["alone 1"] for ranks in RANKS}
    machine = Machine(crowd, seconds["exchange 2"], 8e6 / seconds["reduction 2"])
    numbers = sum((n + 1) * m for n, m in zip(sizes, sizes[1:], strict=False))
    print(
        f"{name}: crowd {', '.join(f'{c:.2f}' for c in crowd.values())} for {', '.join(map(str, RANKS))} ranks; "
        f"exchange {1e3 * machine.latency:.2f} ms; all-reduce {machine.bandwidth / 1e9:.2f} GB/s"
    )
    each = seconds["product 1"] / batches
    return [Row(name, p, predicted(p, batches, each, numbers, machine), seconds[f"product {p}"]) for p in RANKS]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is predicted and measured, and draw it if a picture is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="the figures are medians over these rounds")
    parser.add_argument("--batches", type=int, default=BATCHES, help=f"of {SAMPLES} samples, divided among the ranks")
    parser.add_argument("--model", action="append", choices=list(LAYERS), help="only this one")
    parser.add_argument("--picture", type=Path, help="draw the table there, with matplotlib")
    options = parser.parse_args(arguments)
    names = options.model or list(LAYERS)
    rows = [row for name in names for row in rows_of(name, LAYERS[name], options.batches, options.rounds)]
    print("\n| model | ranks | predicted ms | measured ms | measured / predicted |\n| --- | --- | --- | --- | --- |")
    for name, ranks, model, seconds in rows:
        print(f"| {name} | {ranks} | {model * 1e3:.1f} | {seconds * 1e3:.1f} | {seconds / model:.2f} |")
    if options.picture:
        draw_scaling(rows, f"One Hessian product over {BATCHES} batches of {SAMPLES}", options.picture)


if __name__ == "__main__":
    main()

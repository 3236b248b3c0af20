"""Averages over 1, 2 and 4 processes, measured and predicted: `python -m benchmarks.scaling`. The page is scaling.md."""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

import pure_batchops as pb
from pure_batchops import distributed

LAYERS = {"D = 101,770": (784, 128, 10), "D = 669,706": (784, 512, 512, 10)}
BATCHES, SAMPLES, RANKS = 16, 128, (1, 2, 4)


class Machine(NamedTuple):
    """What ranks share.

    Attributes:
        crowd: by how much a rank is slower when P compute at once; on an idle machine max(1, P/cores).
        latency: seconds of the exchange before an all-reduce, for each further rank.
        bandwidth: bytes per second that a rank sends, and receives, in an all-reduce.
    """

    crowd: dict[int, float]
    latency: float
    bandwidth: float


def predicted(ranks: int, batches: int, batch_seconds: float, numbers: int, machine: Machine, wide: int = 8) -> float:
    """The seconds of one product: the batches of the slowest rank, and one ring all-reduce of its numbers.

    Args:
        ranks: P.
        batches: B, of all ranks together.
        batch_seconds: t, of the product with one batch on one rank alone; K vectors take K times as long.
        numbers: K · D.
        machine: what the ranks share.
        wide: bytes of each number: 8 for float32 products, 4 for bfloat16 ones.

    Returns:
        ⌈B/P⌉ t crowd + (P − 1) latency + 2 (P − 1)/P · K D wide / bandwidth.
    """
    talk = (ranks - 1) * machine.latency + 2 * (ranks - 1) / ranks * numbers * wide / machine.bandwidth
    return math.ceil(batches / ranks) * batch_seconds * machine.crowd[ranks] + talk


def measured(sizes: Sequence[int], batches: int, rounds: int) -> dict[str, Any]:
    """The seconds of all that the model speaks of, taken in turn on one group of processes: medians over rounds.

    Returns:
        `alone`, of the local average of P ranks at once, without a word between them; `product`, of the average over P
        ranks; `exchange`, of an average of one number on two ranks; `reduction`, of an all-reduce of 10⁶ float64 on two.
    """
    with tempfile.TemporaryDirectory() as folder:
        most = max(RANKS)
        multiprocessing.get_context("forkserver").set_forkserver_preload(["torch", "torch._dynamo"])  # imported once
        multiprocessing.start_processes(_member, (folder, sizes, batches, rounds), most, start_method="forkserver")
        return torch.load(Path(folder) / "found.pt", weights_only=True)


def _member(rank: int, folder: str, sizes: Sequence[int], batches: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=max(RANKS))
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in RANKS}
    op, params, buffers, data, v = _problem(sizes, batches)
    tiny = pb.batch_operation(lambda _params, _buffers, _x: lambda u: u)
    one, large = torch.ones(1), torch.ones(10**6, dtype=torch.float64)

    def calls(ranks: int) -> dict[str, Callable[[], Any]]:
        own = data[rank::ranks]
        found = {
            "alone": lambda: pb.averaged(op)(params, buffers, data[:: max(RANKS)], v),
            "product": lambda: distributed.averaged(op, groups[ranks])(params, buffers, own, v),
        }
        if ranks == 2:
            found["exchange"] = lambda: distributed.averaged(tiny, groups[ranks])(one, {}, [one], one)
            found["reduction"] = lambda: dist.all_reduce(large, group=groups[ranks])
        return found

    seconds: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for ranks in RANKS:
            for name, call in calls(ranks).items():
                dist.barrier()  # those without work wait at the next one, without computing
                start = time.perf_counter()
                if rank < ranks:
                    call()
                if turn:  # the first warms up
                    seconds.setdefault(f"{name} {ranks}", []).append(time.perf_counter() - start)
    if rank == 0:
        torch.save({name: median(found) for name, found in seconds.items()}, Path(folder) / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


def _problem(sizes: Sequence[int], batches: int) -> tuple[Any, ...]:
    torch.manual_seed(0)
    pairs = zip(sizes, sizes[1:], strict=False)
    model = nn.Sequential(*[part for n, m in pairs for part in (nn.Linear(n, m), nn.Tanh())][:-1])
    params, buffers = pb.functional_state(model)
    data = [(torch.randn(SAMPLES, sizes[0]), torch.randint(sizes[-1], (SAMPLES,))) for _ in range(batches)]
    v = torch.ones(sum(leaf.numel() for leaf in params.values()))
    return pb.hessian(pb.sample_losses(model, nn.CrossEntropyLoss())), params, buffers, data, v


def rows_of(name: str, sizes: Sequence[int], batches: int, rounds: int) -> list[tuple[str, int, float, float]]:
    """The model, the ranks, the seconds predicted and measured, for each number of ranks."""
    found = measured(sizes, batches, rounds)
    crowd = {ranks: found[f"alone {ranks}"] / found["alone 1"] for ranks in RANKS}
    machine = Machine(crowd, found["exchange 2"], 8e6 / found["reduction 2"])
    numbers = sum((n + 1) * m for n, m in zip(sizes, sizes[1:], strict=False))
    print(
        f"{name}: crowd {', '.join(f'{c:.2f}' for c in crowd.values())} for {', '.join(map(str, RANKS))} ranks; "
        f"exchange {1e3 * machine.latency:.2f} ms; all-reduce {machine.bandwidth / 1e9:.2f} GB/s"
    )
    each = found["product 1"] / batches
    return [(name, ranks, predicted(ranks, batches, each, numbers, machine), found[f"product {ranks}"]) for ranks in RANKS]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is predicted and measured, and draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of which the median is taken")
    parser.add_argument("--batches", type=int, default=BATCHES, help=f"of {SAMPLES} samples, divided among the ranks")
    parser.add_argument("--model", action="append", choices=list(LAYERS), help="only this one")
    parser.add_argument("--picture", type=Path, help="draw it there, with matplotlib")
    options = parser.parse_args(arguments)
    names = options.model or list(LAYERS)
    rows = [row for name in names for row in rows_of(name, LAYERS[name], options.batches, options.rounds)]
    print("\n| model | ranks | predicted ms | measured ms | measured / predicted |\n| --- | --- | --- | --- | --- |")
    for name, ranks, model, seconds in rows:
        print(f"| {name} | {ranks} | {model * 1e3:.1f} | {seconds * 1e3:.1f} | {seconds / model:.2f} |")
    if options.picture:
        _draw(rows, options.picture)


def _draw(rows: Sequence[tuple[str, int, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in zip(dict.fromkeys(row[0] for row in rows), ("#1b4f9c", "#d1495b"), strict=False):
        _, ranks, model, seconds = zip(*(row for row in rows if row[0] == name), strict=True)
        axes.plot(ranks, [1e3 * s for s in seconds], "o-", color=colour, label=f"{name}, measured")
        axes.plot(ranks, [1e3 * s for s in model], "x--", color=colour, label="predicted")
    axes.set_yscale("log")
    axes.set_xticks(RANKS)
    axes.set_xlabel("processes")
    axes.set_ylabel("milliseconds")
    axes.set_title(f"One Hessian product over {BATCHES} batches of {SAMPLES}")
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

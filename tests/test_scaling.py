"""The model of the cost over several processes, and the page that uses it."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import Machine, predicted

PAGE = (Path(__file__).parent.parent / "benchmarks" / "scaling.md").read_text(encoding="utf-8")


def test_model_is_work_alone_on_one_rank_and_talk_alone_without_work():
    machine = Machine({1: 1.0, 2: 1.0, 4: 2.0}, latency=0.01, bandwidth=1e9)
    assert predicted(1, 10, 0.5, 10**9, machine) == 5
    assert predicted(4, 10, 0.5, 0, machine) == pytest.approx(3 * 0.5 * 2 + 3 * 0.01)
    assert predicted(2, 0, 0.5, 10**9, machine) == pytest.approx(0.01 + 8)


def test_page_says_what_the_model_says():
    numbers, ranks, tokens = 7 * 10**9, 1024, 10**9
    gpus = Machine({ranks: 1.0}, latency=0.0, bandwidth=50e9)
    work = predicted(ranks, tokens, 18 * numbers / 4e14, 0, gpus)
    talk = predicted(ranks, 0, 0.0, numbers, gpus, wide=4)
    assert f"| {work:.0f} s |" in PAGE
    assert f"| {talk:.1f} s |" in PAGE
    assert f"| {100 * (work + talk) / 3600:.1f} hours |" in PAGE
    assert f"| {(3 * 2 + 3 * 4) * numbers / 1e9:.0f} GB |" in PAGE


def test_benchmark_of_scaling_runs():
    command = [sys.executable, "-m", "benchmarks.scaling", "--rounds", "1", "--batches", "4", "--model", "D = 101,770"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    assert [line.split("|")[2].strip() for line in done.stdout.splitlines()[-3:]] == ["1", "2", "4"]

"""The machine and the contestants: the heading of the text, and the frame of the JSON."""

import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.contestants import Field
from benchmarks.report.table import Table, as_json


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": f"{torch.get_num_threads()}",
        "numbers": "float32",
    }


def heading(field: Field, rounds: int) -> str:
    """The machine, the versions of the contestants, and the missing contestants."""
    one = machine()
    lines = [
        f"torch {one['torch']}, python {one['python']}, {one['platform']}, {one['processor']}",
        f"threads: {one['threads']}, rounds: {rounds}, {one['numbers']}",
    ]
    if field.versions:
        lines.append(f"contestants: {', '.join(f'{name} {version}' for name, version in field.versions.items())}")
    return "\n".join(lines + [f"missing: {name} ({reason})" for name, reason in field.missing.items()])


def document(field: Field, rounds: int, tables: Mapping[str, Table]) -> dict[str, object]:
    """Everything that is printed, for JSON."""
    return {
        "machine": machine(),
        "rounds": rounds,
        "versions": field.versions,
        "missing": field.missing,
        "tables": {name: as_json(table) for name, table in tables.items()},
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [text.partition(":")[2].strip() for text in described.splitlines() if text.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

"""The sections of the benchmark, one table each: `(plan) -> Table`."""

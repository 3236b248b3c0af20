"""Time and peak memory of every operation on three problems: `python -m benchmarks`, from the root of the repository."""

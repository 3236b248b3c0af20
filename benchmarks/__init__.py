"""Time and peak memory of every operation, and of its peers: `python -m benchmarks`, from the root of the repository.

Each room imports only from the rooms before it:

    times          seconds of calls that take turns
    cases/         what is measured: problems, operations on them, influences
    contestants/   who else computes the same: one file each
    plan           what one run measures
    memory         peak memory in a fresh process, a command too
    report         tables as text and as JSON
    agreement      whether two sides give the same number
    comparison     two sides, one figure, one loop
    sides          what a comparison compares
    tables/        one file for each section
    pictures/      the tables, drawn
    scaling        several processes, a command too

To add an operation or a problem: one row in `cases/operations.py` or `cases/problems.py`. To add a contestant: one file in
`contestants/`, and one row in its `__init__.py`. To add a target: one row in `tables/targets.py`.
"""

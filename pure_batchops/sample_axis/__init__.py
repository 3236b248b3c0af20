"""Where the samples of a batch lie in a tensor, and which calls of torch keep them apart.

A batch of n samples enters a model with its samples along one axis. Each call moves that axis, splits it or merges it with
others (`axis.py`). A *rule* says, for one function of torch, where the samples lie in its output, or that it does not keep
them apart. If each call between a tensor and the losses has a rule, and the i-th loss lies at sample i, then the losses of
other samples do not depend on sample i of that tensor. This is a proof, and costs no arithmetic.

A call without a rule proves nothing, and a slower way decides. So a missing rule costs time; a wrong rule gives wrong numbers.

**To add a rule**: a function `(given, args, kwargs, output) -> SampleAxis | None` in the file of its kind, a row in
`rules.py`, and a row in `tests/test_sample_axis.py`, which compares it with the Jacobian.

axis (the samples along an axis) · elementwise, reductions, shapes, pieces, products, layers (rules) · rules (the table).
"""

"""From a module to plain tensors and a pure forward pass.

state.py        the tensors of a module as `(params, buffers)`; the states of an ensemble, stacked and unstacked
selection.py    which parameters a name, a pattern or a predicate picks
forward.py      a module as `forward(params, buffers, inputs)`
skeleton.py     the copy without numbers that such a forward runs
rewrites.py     modules that the skeleton runs in plain operations, because torch's own kernels are wrong or fail
attention.py    attention without fused kernels
purity.py       modules that are no pure functions are refused
row_by_row.py   chains of torch's modules: which keep samples apart, and which are right in forward mode
"""

"""From a module to plain tensors and a pure forward pass.

state.py        the tensors of a module as `(params, buffers)`; the states of an ensemble, stacked and unstacked
selection.py    which parameters a name, a pattern or a predicate picks
forward.py      a module as `forward(params, buffers, inputs)`
live.py         running the module itself with other tensors, and leaving it as it was
exchange.py     other tensors in the places of the module's own
wrappers.py     wrappers that cannot run so are refused
purity.py       modules that are no pure functions are refused
row_by_row.py   chains of torch's modules: which keep samples apart
"""

"""The zoo: models and losses as people write them. A test that calls a row builds it; nothing is built before."""

from tests.zoo_losses import LOSSES
from tests.zoo_sequences import SEQUENCES
from tests.zoo_transformers import TRANSFORMERS
from tests.zoo_vision import VISION
from tests.zoo_wrappers import WRAPPERS

ROWS = {**VISION, **SEQUENCES, **WRAPPERS, **LOSSES, **TRANSFORMERS}

# Rows and operations whose third derivative is looked at: norms, softmax, recurrences.
DIFFERENTIATED = [
    ("convnext", "hessian"),
    ("functional norms", "inverse_harmonic_mean"),
    ("nano gpt", "generalized_gauss_newton"),
    ("gru, two layers", "hessian"),
    ("weight norm hook", "hessian"),
    ("closure", "gauss_newton"),
    ("gpt2, eager", "hessian"),
]
# Rows that are compiled: the compiler takes seconds for each.
COMPILED = [
    ("nano gpt", "hessian"),
    ("closure", "inverse_harmonic_mean"),
    ("gpt2, batch encoding", "hessian"),
]

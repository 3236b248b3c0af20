"""The zoo: models and losses as people write them. A test that calls a row builds it; nothing is built before."""

from tests.zoo_losses import LOSSES
from tests.zoo_sequences import SEQUENCES
from tests.zoo_transformers import TRANSFORMERS
from tests.zoo_vision import VISION
from tests.zoo_wrappers import WRAPPERS

ROWS = {**VISION, **SEQUENCES, **WRAPPERS, **LOSSES, **TRANSFORMERS}

DIFFERENTIATED = [("convnext", "hessian")]  # the third derivative takes a while
COMPILED = [("nano gpt", "hessian"), ("lora", "inverse_harmonic_mean"), ("weight norm parametrization", "hessian"), ("gpt2, batch encoding", "hessian"), ("llama of transformers, eager", "gauss_newton")]

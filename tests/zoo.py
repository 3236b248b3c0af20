"""The zoo: models and losses as people write them. A test that calls a row builds it; nothing is built before."""

from tests.zoo_vision import VISION

ROWS = {**VISION}

DIFFERENTIATED = [("convnext", "hessian")]  # the third derivative takes a while
COMPILED = []  # the compiler takes seconds for each

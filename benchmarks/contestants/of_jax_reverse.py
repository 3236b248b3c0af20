"""JAX again, with the Hessian product by reverse over reverse mode."""

from functools import partial

from benchmarks.contestants import Products
from benchmarks.contestants.of_jax import multiplication, reverse_over_reverse

PRODUCTS: Products = {"hessian": partial(multiplication, reverse_over_reverse)}

"""Derivatives of a function of params as linear maps: J, Jᵀ and the Hessian."""

"""A kit of laws: one line that checks an operation, or an average, of your own.

    check_operation(op, params, buffers, batch)                    every law of an operation, LAWS
    check_average(mean_op, op, params, buffers, batches)           every law of an average, AVERAGE_LAWS

A broken law is an AssertionError that says the law and shows the numbers. A law is a function of a case, whose docstring is
the law in words; to add one is to write that function and to name it in the table.
"""

from pure_batchops.gradients.routes import gradient_route
from pure_batchops.testing.averages import AVERAGE_LAWS, check_average
from pure_batchops.testing.operations import LAWS, check_operation
from pure_batchops.tracing import only_torch_func

__all__ = ["AVERAGE_LAWS", "LAWS", "check_average", "check_operation", "gradient_route", "only_torch_func"]

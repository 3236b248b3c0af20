"""A kit of laws: one line checks a loss, an operation, or an average of your own.

    check_loss(loss, params, buffers, batch)                       every law of a loss, LOSS_LAWS
    check_operation(op, params, buffers, batch)                    every law of an operation, LAWS
    check_average(mean_op, op, params, buffers, batches)           every law of an average, AVERAGE_LAWS

A broken law is an AssertionError that says the law and shows the numbers.

To add a law, write a function of a case (`LossCase`, `Case` or `AverageCase`) whose docstring is the law in one sentence. It
raises an AssertionError that begins with "got" if the law is broken, and returns whether there was anything to check. Then
name it in the table, and plant a wrong operation that breaks this law and no other in the tests.
"""

from pure_batchops.gradients.route import gradient_route
from pure_batchops.testing.averages import AVERAGE_LAWS, check_average
from pure_batchops.testing.losses import LOSS_LAWS, check_loss
from pure_batchops.testing.operations import LAWS, check_operation
from pure_batchops.tracing import only_torch_func

__all__ = [
    "AVERAGE_LAWS",
    "LAWS",
    "LOSS_LAWS",
    "check_average",
    "check_loss",
    "check_operation",
    "gradient_route",
    "only_torch_func",
]

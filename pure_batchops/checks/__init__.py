"""Checks of options. A factory calls them before it sees any tensor of the problem."""

from pure_batchops.checks.choices import boolean as boolean
from pure_batchops.checks.choices import option as option
from pure_batchops.checks.functions import accepts as accepts
from pure_batchops.checks.functions import function as function
from pure_batchops.checks.functions import function_or_none as function_or_none
from pure_batchops.checks.functions import loss as loss
from pure_batchops.checks.functions import operation as operation
from pure_batchops.checks.numbers import axis as axis
from pure_batchops.checks.numbers import fraction as fraction
from pure_batchops.checks.numbers import not_negative as not_negative
from pure_batchops.checks.numbers import positive as positive
from pure_batchops.checks.numbers import seed as seed
from pure_batchops.checks.numbers import whole as whole
from pure_batchops.checks.numbers import whole_or_none as whole_or_none

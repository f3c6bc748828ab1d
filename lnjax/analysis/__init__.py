"""Section 5 of the paper, executable: invariances, Fisher geometry, and probes of any cell.

The functions here need jax and flax alone. What draws (`lnjax.analysis.plots`, the figures of
``python -m lnjax.analysis.figures``) is imported by name and needs the extra ``lnjax[notebooks]``.
"""

from lnjax.analysis.epsilon import VARIANCES as VARIANCES
from lnjax.analysis.epsilon import EpsilonSweep as EpsilonSweep
from lnjax.analysis.epsilon import epsilon_sweep as epsilon_sweep
from lnjax.analysis.invariance import TABLE_1 as TABLE_1
from lnjax.analysis.invariance import invariance_table as invariance_table
from lnjax.analysis.invariance import measure as measure
from lnjax.analysis.invariance import normalizers as normalizers
from lnjax.analysis.recurrent_invariance import recurrent_cells as recurrent_cells
from lnjax.analysis.recurrent_invariance import (
    recurrent_invariance_table as recurrent_invariance_table,
)
from lnjax.analysis.tables import InvarianceTable as InvarianceTable
from lnjax.analysis.transformation import Transformation as Transformation
from lnjax.analysis.transformation import change_leaf as change_leaf
from lnjax.analysis.transformation import recenter_dataset as recenter_dataset
from lnjax.analysis.transformation import recenter_weight_matrix as recenter_weight_matrix
from lnjax.analysis.transformation import rescale_case as rescale_case
from lnjax.analysis.transformation import rescale_dataset as rescale_dataset
from lnjax.analysis.transformation import rescale_weight_matrix as rescale_weight_matrix
from lnjax.analysis.transformation import rescale_weight_vector as rescale_weight_vector
from lnjax.analysis.transformation import transformations as transformations

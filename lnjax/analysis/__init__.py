"""Section 5 of the paper, executable: invariances, Fisher geometry, and probes of any cell.

The functions here need jax and flax alone. What draws (`lnjax.analysis.plots`, the figures of
``python -m lnjax.analysis.figures``) is imported by name and needs the extra ``lnjax[notebooks]``.
"""

from lnjax.analysis.batch_size import Examples as Examples
from lnjax.analysis.batch_size import Perceptron as Perceptron
from lnjax.analysis.batch_size import PerceptronCurves as PerceptronCurves
from lnjax.analysis.batch_size import Split as Split
from lnjax.analysis.batch_size import example_order as example_order
from lnjax.analysis.batch_size import init_perceptron as init_perceptron
from lnjax.analysis.batch_size import split_examples as split_examples
from lnjax.analysis.batch_size import train_perceptron as train_perceptron
from lnjax.analysis.companions import Influence as Influence
from lnjax.analysis.companions import influence_of_companions as influence_of_companions
from lnjax.analysis.epsilon import VARIANCES as VARIANCES
from lnjax.analysis.epsilon import EpsilonSweep as EpsilonSweep
from lnjax.analysis.epsilon import epsilon_sweep as epsilon_sweep
from lnjax.analysis.fisher import Discrepancy as Discrepancy
from lnjax.analysis.fisher import Fisher as Fisher
from lnjax.analysis.fisher import chi as chi
from lnjax.analysis.fisher import discrepancy as discrepancy
from lnjax.analysis.fisher import discrepancy_by_width as discrepancy_by_width
from lnjax.analysis.fisher import fisher_information as fisher_information
from lnjax.analysis.fisher import kl_divergence as kl_divergence
from lnjax.analysis.fisher import paper_fisher as paper_fisher
from lnjax.analysis.geometry import EpsilonLeak as EpsilonLeak
from lnjax.analysis.geometry import FlatDirections as FlatDirections
from lnjax.analysis.geometry import GainGeometry as GainGeometry
from lnjax.analysis.geometry import NormGrowth as NormGrowth
from lnjax.analysis.geometry import Orthogonality as Orthogonality
from lnjax.analysis.geometry import epsilon_leak as epsilon_leak
from lnjax.analysis.geometry import flat_directions as flat_directions
from lnjax.analysis.geometry import gain_geometry as gain_geometry
from lnjax.analysis.geometry import gain_response as gain_response
from lnjax.analysis.geometry import norm_growth as norm_growth
from lnjax.analysis.geometry import orthogonality as orthogonality
from lnjax.analysis.geometry import step_angle as step_angle
from lnjax.analysis.glm import GLM as GLM
from lnjax.analysis.glm import GLMParams as GLMParams
from lnjax.analysis.invariance import TABLE_1 as TABLE_1
from lnjax.analysis.invariance import invariance_table as invariance_table
from lnjax.analysis.invariance import measure as measure
from lnjax.analysis.invariance import normalizers as normalizers
from lnjax.analysis.layer_probes import layer_gradient_norms as layer_gradient_norms
from lnjax.analysis.layer_probes import probe_layers as probe_layers
from lnjax.analysis.learning_dynamics import Comparison as Comparison
from lnjax.analysis.learning_dynamics import Descent as Descent
from lnjax.analysis.learning_dynamics import compare_dynamics as compare_dynamics
from lnjax.analysis.learning_dynamics import descend as descend
from lnjax.analysis.learning_dynamics import train_student as train_student
from lnjax.analysis.placement import BlockGradients as BlockGradients
from lnjax.analysis.placement import Problem as Problem
from lnjax.analysis.placement import StackTraining as StackTraining
from lnjax.analysis.placement import TwoLayers as TwoLayers
from lnjax.analysis.placement import apply_stack as apply_stack
from lnjax.analysis.placement import block_gradients as block_gradients
from lnjax.analysis.placement import gradient_of_blocks as gradient_of_blocks
from lnjax.analysis.placement import init_stack as init_stack
from lnjax.analysis.placement import stack_loss as stack_loss
from lnjax.analysis.placement import teacher_problem as teacher_problem
from lnjax.analysis.placement import train_stacks as train_stacks
from lnjax.analysis.placement import warmup_rates as warmup_rates
from lnjax.analysis.probes import GradientNorms as GradientNorms
from lnjax.analysis.probes import Inside as Inside
from lnjax.analysis.probes import Record as Record
from lnjax.analysis.probes import gradient_norms as gradient_norms
from lnjax.analysis.probes import mean_over_rows as mean_over_rows
from lnjax.analysis.probes import probe as probe
from lnjax.analysis.recurrent_invariance import recurrent_cells as recurrent_cells
from lnjax.analysis.recurrent_invariance import (
    recurrent_invariance_table as recurrent_invariance_table,
)
from lnjax.analysis.recurrent_stability import Stability as Stability
from lnjax.analysis.recurrent_stability import growth_by_gain as growth_by_gain
from lnjax.analysis.recurrent_stability import predicted_growth as predicted_growth
from lnjax.analysis.recurrent_stability import stability as stability
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

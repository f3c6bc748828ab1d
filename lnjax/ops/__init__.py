"""Pure functions on arrays, time-major where there is time. They know no Flax."""

from lnjax.ops.batch import batch_norm as batch_norm
from lnjax.ops.batch import batch_statistics as batch_statistics
from lnjax.ops.carried import keep_carry as keep_carry
from lnjax.ops.carried import resume_carry as resume_carry
from lnjax.ops.normalization import group_norm as group_norm
from lnjax.ops.normalization import instance_norm as instance_norm
from lnjax.ops.normalization import layer_norm as layer_norm
from lnjax.ops.normalization import rms_norm as rms_norm
from lnjax.ops.normalization import weight_norm as weight_norm
from lnjax.ops.products import product as product
from lnjax.ops.sequence import flip_rows as flip_rows
from lnjax.ops.sequence import lengths_to_mask as lengths_to_mask
from lnjax.ops.sequence import run_order as run_order
from lnjax.ops.sequence import scan_chunks as scan_chunks
from lnjax.ops.sequence import scan_sequence as scan_sequence
from lnjax.ops.sequence import select as select
from lnjax.ops.sequence import take_steps as take_steps
from lnjax.ops.sequence import zero_padding as zero_padding

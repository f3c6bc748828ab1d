"""Section 5 of the paper, executable: invariances, Fisher geometry, and probes of any cell.

The functions here need jax and flax alone. What draws (`lnjax.analysis.plots`, the figures of
``python -m lnjax.analysis.figures``) is imported by name and needs the extra ``lnjax[notebooks]``.
"""

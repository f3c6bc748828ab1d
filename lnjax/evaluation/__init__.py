"""Measures of trained encoders that no task owns: the sentence evaluations of skip-thoughts."""

from lnjax.evaluation.sentences import evaluate_encoder

__all__ = ["evaluate_encoder"]

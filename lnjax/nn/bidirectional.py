"""Bidirectional: one layer from the beginning and one from the true end, merged at each step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lnjax.typing import Array, PRNGKey, PyTree


def concatenate_features(forward: Array, backward: Array) -> Array:
    """Two outputs side by side: (..., H1), (..., H2) -> (..., H1 + H2)."""
    return jnp.concatenate([forward, backward], axis=-1)


class Bidirectional(nn.Module):
    """Runs one layer forwards and one backwards: `flax.linen.Bidirectional`, with masks.

    The backward layer starts at the last real step of each row, and its outputs stand at the time
    of their input. With `lnjax.RNN` inside, steps that are not real output zero in both directions,
    and so does their concatenation (another `merge_fn` is given those zeros). With `flax.linen.RNN`
    inside they are as Flax leaves them, and there is no `mask`.

    Attributes:
      forward_rnn: an `RNN`, or whatever is called as one.
      backward_rnn: the other. The same object twice is one set of parameters for both directions.
      merge_fn: ``merge_fn(forward, backward)`` of the outputs; by default they are concatenated
        along the features.
      time_major: sequences are (T, B, D) instead of (B, T, D); in place of what the two layers say.
      return_carry: return ``((forward, backward), outputs)`` instead of the outputs.

    >>> import jax, jax.numpy as jnp
    >>> from lnjax.cells import GRUCell
    >>> from lnjax.nn import RNN
    >>> layer = Bidirectional(RNN(GRUCell(features=4)), RNN(GRUCell(features=4)))
    >>> xs = jnp.ones((2, 5, 3))
    >>> ys, _ = layer.init_with_output(jax.random.key(0), xs, seq_lengths=jnp.array([5, 2]))
    >>> ys.shape, float(jnp.abs(ys[1, 2:]).max())
    ((2, 5, 8), 0.0)
    """

    forward_rnn: Any
    backward_rnn: Any
    merge_fn: Callable[[Array, Array], Array] = concatenate_features
    time_major: bool = False
    return_carry: bool = False

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[PyTree, PyTree] | None = None,
        init_key: PRNGKey | None = None,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Applies both layers to `inputs`.

        Args:
          inputs: (B, T, D), or (T, B, D) if time-major.
          initial_carry: the pair of the forward and the backward layer's.
          init_key: for random initial carries; each layer gets its own half.
          seq_lengths, mask: see `RNN`; a mask goes only to layers that take one.
          return_carry, time_major: override the attributes.
          reverse: refused if true, where Flax ignores it; the argument is here because the layer is
            called as an `RNN` is.
          keep_order: says something with `reverse` only; outputs are always in the order of inputs.

        Returns:
          Merged outputs, (B, T, H1 + H2) by default, or (T, B, H1 + H2); with `return_carry` the
          pair of final carries first: the backward one is that of the first real step.

        Raises:
          ValueError: `reverse` is true, or `initial_carry` is no pair.
          TypeError: a `mask` for a layer that takes none.
        """
        if reverse:
            raise ValueError(
                "a bidirectional layer has no reverse: it runs both ways; flip the sequences, or"
                " swap forward_rnn and backward_rnn"
            )
        if initial_carry is not None and not (
            isinstance(initial_carry, tuple | list) and len(initial_carry) == 2
        ):
            raise ValueError(
                "initial_carry of a bidirectional layer must be the pair (forward, backward), got"
                f" {jax.tree.structure(initial_carry)}"
            )
        carries = (None, None) if initial_carry is None else initial_carry
        keys = (None, None) if init_key is None else jax.random.split(init_key)
        shared = {
            "seq_lengths": seq_lengths,
            "return_carry": True,
            "time_major": self.time_major if time_major is None else time_major,
        }
        if mask is not None:  # flax.linen.RNN does not know the word
            shared["mask"] = mask
        forward_carry, forward = self.forward_rnn(
            inputs, initial_carry=carries[0], init_key=keys[0], reverse=False, **shared
        )
        backward_carry, backward = self.backward_rnn(
            inputs,
            initial_carry=carries[1],
            init_key=keys[1],
            reverse=True,
            keep_order=True,
            **shared,
        )
        outputs = jax.tree.map(self.merge_fn, forward, backward)
        return_carry = self.return_carry if return_carry is None else return_carry
        return ((forward_carry, backward_carry), outputs) if return_carry else outputs

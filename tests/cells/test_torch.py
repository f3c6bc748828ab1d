"""Every cell against PyTorch on a CPU: outputs, final carry and all gradients, by autograd."""

import jax
import numpy as np
import pytest

from lnjax.cells import GRUCell, LSTMCell, SimpleCell
from tests.cells.cases import B, Case, D, H, T, as_dict, largest_error, name_of

torch = pytest.importorskip("torch")

# Float64 shows that the functions are the same, float32 that no path of ours loses precision.
TOLERANCES = {"float64": 1e-10, "float32": 1e-5}


def normalized(cell, a, gain, bias=None):
    """Eq. 15-16 over the last axis; a site without a gain has no norm."""
    if gain is None:
        return a
    if cell.norm == "rms":
        y = torch.nn.functional.rms_norm(a, a.shape[-1:], gain, cell.epsilon)
        return y if bias is None else y + bias
    return torch.nn.functional.layer_norm(a, a.shape[-1:], gain, bias, cell.epsilon)


def lstm_step(cell, p, carry, x):
    """Eq. 20-22."""
    c, h = carry
    from_h = normalized(cell, h @ p["recurrent_kernel"], p.get("scale_h"))
    from_x = normalized(cell, x @ p["kernel"], p.get("scale_x"))
    i, f, g, o = torch.chunk(from_h + from_x + p["bias"], 4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    seen = normalized(cell, c, p.get("scale_c"), p.get("bias_c"))
    return seen if "carried_cell" in cell.sites else c, torch.sigmoid(o) * torch.tanh(seen)


def gru_step(cell, p, carry, x):
    """Eq. 26-28."""
    (h,) = carry
    part = {}
    for side, inputs in ("recurrent_kernel", h), ("kernel", x):
        gain = p["scale_h" if side == "recurrent_kernel" else "scale_x"]
        summed = torch.split(inputs @ p[side], [2 * H, H], dim=-1)
        part[side] = [
            normalized(cell, a, g)
            for a, g in zip(summed, torch.split(gain, [2 * H, H]), strict=True)
        ]
    (rz_h, n_h), (rz_x, n_x) = part["recurrent_kernel"], part["kernel"]
    r, z = torch.chunk(torch.sigmoid(rz_h + rz_x + p["bias"][: 2 * H]), 2, dim=-1)
    n = torch.tanh(n_x + p["bias"][2 * H :] + r * (n_h + p["bias_h"]))
    return ((1 - z) * h + z * n,)


def simple_step(cell, p, carry, x):
    """Eq. 4, and the form that normalizes each projection apart."""
    (h,) = carry
    from_h = normalized(cell, h @ p["recurrent_kernel"], p.get("scale_h"))
    from_x = normalized(cell, x @ p["kernel"], p.get("scale_x"))
    return (torch.tanh(normalized(cell, from_h + from_x, p.get("scale")) + p["bias"]),)


STEPS = {LSTMCell: lstm_step, GRUCell: gru_step, SimpleCell: simple_step}


def leaf(array):
    return torch.tensor(np.asarray(array), requires_grad=True)


def detached(tree):
    return jax.tree.map(lambda a: a.detach().numpy(), tree)


def differentiated(case, inputs, carry, ys):
    """Gradients to `inputs` (a tree of torch leaves) of the pairing with the case's cotangents."""
    to_carry, to_ys = jax.tree.map(torch.tensor, case.cotangents)
    pairing = (to_ys * ys).sum()
    for cotangent, final in zip(jax.tree.leaves(to_carry), carry, strict=True):
        pairing = pairing + (cotangent * final).sum()
    leaves, structure = jax.tree.flatten(inputs)
    return structure.unflatten(torch.autograd.grad(pairing, leaves))


def assert_agree(case, carry, ys, gradients, tolerance):
    # A mask, full as it is, lets what the tests against NumPy have compiled serve here, too.
    outputs, got = case.pull(np.ones((T, B), bool))
    carry = carry if len(carry) > 1 else carry[0]
    assert largest_error(outputs, detached((carry, ys))) < tolerance
    names = dict(zip(("params", "carry", "xs"), got, strict=True))
    names["params"] = as_dict(names["params"])
    assert largest_error(names, detached(gradients)) < tolerance


@pytest.mark.parametrize(
    "cell, dtype",
    [(cell(H), dtype) for cell in STEPS for dtype in TOLERANCES]
    + [
        (LSTMCell(H, sites=("cell",)), "float64"),
        (LSTMCell(H, norm="rms", sites=("recurrent", "carried_cell")), "float64"),
        (SimpleCell(H, sites=("recurrent", "input")), "float64"),
    ],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
@pytest.mark.some(4)
def test_equals_a_torch_loop_over_the_equations(cell, dtype):
    with jax.enable_x64(dtype == "float64"):
        case = Case(cell, dtype)
        inputs = jax.tree.map(
            leaf, {"params": as_dict(case.params), "carry": case.carry, "xs": case.xs}
        )
        carry, ys = tuple(jax.tree.leaves(inputs["carry"])), []
        for x in inputs["xs"]:
            carry = STEPS[type(cell)](cell, inputs["params"], carry, x)
            ys.append(carry[-1])
        ys = torch.stack(ys)
        gradients = differentiated(case, inputs, carry, ys)
        assert_agree(case, carry, ys, gradients, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", STEPS)
def test_without_a_norm_it_is_the_cell_of_torch(kind, dtype):
    modules = {LSTMCell: torch.nn.LSTM, GRUCell: torch.nn.GRU, SimpleCell: torch.nn.RNN}
    with jax.enable_x64(dtype == "float64"):
        case = Case(kind(H, norm=None), dtype)
        ours, width = as_dict(case.params), case.params.kernel.shape[1]
        # Torch's GRU keeps the old h where its z is 1, and ours where it is 0.
        sign = np.ones(width, dtype)
        if kind is GRUCell:
            sign[H : 2 * H] = -1
        theirs = {
            "weight_ih_l0": (ours["kernel"] * sign).T,
            "weight_hh_l0": (ours["recurrent_kernel"] * sign).T,
            "bias_ih_l0": ours["bias"] * sign,
            "bias_hh_l0": np.zeros(width, dtype),
        }
        if kind is GRUCell:
            theirs["bias_hh_l0"][2 * H :] = ours["bias_h"]
        params = {name: leaf(value) for name, value in theirs.items()}
        inputs = {"params": params, "xs": leaf(case.xs), "carry": jax.tree.map(leaf, case.carry)}
        module = modules[kind](D, H, dtype=getattr(torch, dtype))
        start = tuple(final[None] for final in jax.tree.leaves(inputs["carry"]))
        # Theirs is (h, c), one layer after another.
        start = start[::-1] if kind is LSTMCell else start[0]
        ys, final = torch.func.functional_call(module, params, (inputs["xs"], start))
        carry = (final[1][0], final[0][0]) if kind is LSTMCell else (final[0],)
        gradients = differentiated(case, inputs, carry, ys)
        to = gradients["params"]
        gradients["params"] = {
            "kernel": to["weight_ih_l0"].T * torch.tensor(sign),
            "recurrent_kernel": to["weight_hh_l0"].T * torch.tensor(sign),
            "bias": to["bias_ih_l0"] * torch.tensor(sign),
        }
        if kind is GRUCell:
            gradients["params"]["bias_h"] = to["bias_hh_l0"][2 * H :]
        assert_agree(case, carry, ys, gradients, TOLERANCES[dtype])

"""What the rest of a batch decides, against single batches in NumPy, in float64."""

import numpy as np
import pytest

from lnjax.analysis import Perceptron, influence_of_companions, init_perceptron
from tests.analysis.test_batch_size import forward

D, H = 3, 4


@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_without_batch_norm_the_companions_move_not_a_bit(norm, rng):
    images = rng.normal(size=(24, D)).astype(np.float32)
    found = influence_of_companions(
        images, norm=norm, batch_sizes=[1, 2, 5, 16], num_cases=5, num_draws=6, features=H
    )
    assert np.all(found.companions == 0)
    assert np.all(found.own == found.own[0]) and found.own[0] > 0.01


def test_batch_norm_is_that_of_a_loop(rng, x64):
    images = rng.normal(size=(12, D))
    sizes, cases, draws = [1, 2, 5], 3, 4
    found = influence_of_companions(
        images, norm="batch", batch_sizes=sizes, num_cases=cases, num_draws=draws, features=H
    )
    network = Perceptron("batch", features=H, param_dtype=np.float64)
    params = init_perceptron(network, D)["params"]
    choose = np.random.default_rng(0)
    companions = [choose.choice(np.arange(cases, 12), 4, replace=False) for _ in range(draws)]
    for m, size in enumerate(sizes):
        logits = np.array(
            [
                [forward(params, images[[case, *others[: size - 1]]], "batch")[0][0]
                 for others in companions]
                for case in range(cases)
            ]
        )  # fmt: skip
        means = logits.mean(axis=1)
        own = np.sqrt(((means - means.mean(axis=0)) ** 2).mean())
        others = np.sqrt(((logits - means[:, None]) ** 2).mean())
        np.testing.assert_allclose(found.own[m], own, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(found.companions[m], others, rtol=1e-6, atol=1e-12)
    # alone in its batch, a case has no say either
    assert found.own[0] == found.companions[0] == 0 and found.companions[1] > 0


def test_too_few_images_are_refused():
    images = np.ones((10, D), np.float32)
    with pytest.raises(ValueError, match="8 cases and 4 draws of 3 companions from 10 images"):
        influence_of_companions(images, norm="layer", batch_sizes=[4], num_cases=8, num_draws=4)
    with pytest.raises(ValueError, match="at least 2 cases"):
        influence_of_companions(images, norm="layer", batch_sizes=[1], num_cases=1, num_draws=4)

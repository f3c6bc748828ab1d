"""The Fisher information against its definition, outcome by outcome, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnjax.analysis import (
    GLM,
    GLMParams,
    chi,
    discrepancy,
    discrepancy_by_width,
    fisher_information,
    kl_divergence,
    paper_fisher,
)
from tests.analysis import glm_oracle

NORMS = ("layer", "rms", "batch", "weight", None)
FAMILIES = ("gaussian", "bernoulli", "poisson", "categorical")
# Each norm and each family, and the one whose outputs covary where Eq. 13 is exact
MODELS = [
    *[GLM(norm, "bernoulli") for norm in NORMS],
    *[GLM("layer", family) for family in ("poisson", "categorical")],
    GLM("layer", "gaussian", phi=0.4, epsilon=0.1),
    GLM("batch", "categorical"),
    GLM("weight", "gaussian", phi=2.0),
]


@pytest.fixture(autouse=True)
def _in_float64(x64):
    yield


def problem(glm, rng, cases=5, inner=2, width=3):
    """Parameters and inputs that are no one's default."""
    params = GLMParams(
        jnp.array(rng.normal(size=(inner, width))),
        # a mean so small that the outcomes of a Poisson distribution can be counted
        jnp.array(rng.normal(size=width) - 1.5 * (glm.family == "poisson")),
        None if glm.norm is None else jnp.array(rng.uniform(0.5, 2, size=width)),
    )
    return params, jnp.array(rng.normal(size=(cases, inner)) + 0.3)


def name(glm):
    return f"{glm.norm} {glm.family}"


@pytest.mark.parametrize("glm", MODELS, ids=name)
@pytest.mark.some(4)
def test_it_is_the_second_moment_of_the_score(glm, rng):
    params, xs = problem(glm, rng)
    expected = glm_oracle.fisher(
        glm.norm, glm.family, glm_oracle.pack(params), np.asarray(xs), glm.phi, glm.epsilon
    )
    actual = fisher_information(glm, params, xs).matrix
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "glm", [GLM(norm, family) for norm in NORMS for family in ("categorical",)], ids=name
)
@pytest.mark.some(3)
def test_the_papers_is_equation_13(glm, rng):
    params, xs = problem(glm, rng)
    theta = glm_oracle.pack(params)
    expected = glm_oracle.paper_fisher(glm.norm, glm.family, theta, np.asarray(xs))
    paper = paper_fisher(glm, params, xs)
    np.testing.assert_allclose(paper.matrix, expected, rtol=1e-6, atol=1e-8)
    # It is exact where a unit's weights move that unit alone, and only there
    exact = fisher_information(glm, params, xs)
    off = np.linalg.norm(exact.matrix - paper.matrix) / np.linalg.norm(paper.matrix)
    assert off > 0.1 if glm.norm in ("layer", "rms") else off < 1e-12


def test_the_standard_model_is_a_kronecker_product(rng):
    glm = GLM(None, "gaussian", phi=0.5)
    params, xs = problem(glm, rng)
    wide = np.concatenate([xs, np.ones((len(xs), 1))], axis=1)  # Eq. 12, Cov = phi 1
    expected = np.kron(np.eye(3) * 0.5 / 0.5**2, wide.T @ wide / len(xs))
    np.testing.assert_allclose(fisher_information(glm, params, xs).matrix, expected, atol=1e-12)


def test_chi_of_batch_norm_with_epsilon(rng):
    glm = GLM("batch", epsilon=0.2)
    params, xs = problem(glm, rng)
    kernel, unit = np.asarray(params.kernel), 1

    def of_unit(weights):
        moved = kernel.copy()
        moved[:, unit] = weights
        both = glm_oracle.statistics("batch", moved, np.asarray(xs), 0.2)
        return np.stack([value[:, unit] for value in both])

    (mean, sigma), (d_mean, d_sigma) = (
        of_unit(kernel[:, unit]),
        glm_oracle.differences(of_unit, kernel[:, unit]),
    )
    normalized = (np.asarray(xs) @ kernel[:, unit] - mean) / sigma
    expected = np.asarray(xs) - d_mean - normalized[:, None] * d_sigma
    np.testing.assert_allclose(chi(glm, params, xs)[:, unit], expected, atol=1e-8)


def test_parts_and_blocks_are_of_one_matrix(rng):
    glm = GLM("layer", "bernoulli")
    params, xs = problem(glm, rng)
    information = fisher_information(glm, params, xs)
    inner, size = 2, 4
    for i, j in ((0, 0), (1, 2), (2, 1)):
        expected = information.matrix[i * size : (i + 1) * size, j * size : (j + 1) * size]
        np.testing.assert_array_equal(information.block(i, j), expected)
        assert information.part("g", "b")[i, 0, j, 0] == expected[inner + 1, inner]
        np.testing.assert_array_equal(information.part("w", "b")[i, :, j, 0], expected[:2, inner])
    np.testing.assert_array_equal(information.diagonal[2], information.block(2, 2))
    with pytest.raises(ValueError, match="part 'c' is not one of 'w', 'b', 'g'"):
        information.part("w", "c")
    standard = fisher_information(GLM(None), params._replace(scale=None), xs)
    with pytest.raises(ValueError, match="part 'g' is not one of 'w', 'b'"):
        standard.part("g", "g")
    assert standard.part("w", "b").shape == (3, 2, 3, 1)


@pytest.mark.parametrize("glm", [GLM("layer", "bernoulli"), GLM("batch", "poisson")], ids=name)
def test_the_divergence_is_of_second_order(glm, rng):
    """Eq. 8: for a step of size h, KL is h^2 / 2 times the form, up to a relative error O(h)."""
    params, xs = problem(glm, rng)
    theta = glm_oracle.pack(params)
    direction = rng.normal(size=theta.shape)
    matrix = np.asarray(fisher_information(glm, params, xs).matrix)
    form = direction.ravel() @ matrix @ direction.ravel() / 2
    errors = []
    for h in (1e-2, 1e-3):
        moved = theta + h * direction
        other = GLMParams(moved[:, :2].T, moved[:, 2], moved[:, 3])
        errors.append(abs(kl_divergence(glm, params, other, xs) / (h**2 * form) - 1))
    assert errors[0] < 0.3 and errors[1] < errors[0] / 5


@pytest.mark.parametrize("family", ("bernoulli", "categorical", "poisson"))
def test_the_divergence_is_the_sum_over_outcomes(family, rng):
    glm = GLM("rms", family)
    params, xs = problem(glm, rng)
    other, _ = problem(glm, rng)
    here, there = (
        glm_oracle.natural("rms", glm_oracle.pack(each), np.asarray(xs)) for each in (params, other)
    )
    expected = 0.0
    eta = [glm_oracle.log_partition(family, z) for z in (here, there)]
    for n in range(len(xs)):
        ys, probabilities = glm_oracle.outcomes(family, here[n])
        ratios = ys @ (here[n] - there[n]) - eta[0][n] + eta[1][n]
        expected += probabilities @ ratios / len(xs)
    np.testing.assert_allclose(kl_divergence(glm, params, other, xs), expected, rtol=1e-6)


@pytest.mark.slow
def test_how_the_discrepancy_falls_with_width():
    """Own blocks as 2 / H, others as H ** -0.5, the worst direction not at all."""
    widths = np.array([6, 24])
    errors = discrepancy_by_width(GLM("layer"), widths.tolist(), cases=64)
    assert ((1 < errors.diagonal * widths) & (errors.diagonal * widths < 3)).all()
    others = errors.off_diagonal * widths**0.5
    assert ((0.7 < others) & (others < 2)).all()
    assert (errors.largest_eigenvalue > 0.3).all()
    assert (errors.total > errors.diagonal).all()


def test_the_discrepancy_of_layer_norm_in_closed_form(rng):
    """Gain 1, constant covariance: block (i, j) is E[xx^T M_ij / s^2], that of Eq. 13 M_ii^2."""
    glm = GLM("layer")
    params, xs = problem(glm, rng, cases=7, inner=3, width=5)
    params = params._replace(scale=jnp.ones(5))
    kernel, data = np.asarray(params.kernel), np.asarray(xs)
    mean, sigma = glm_oracle.statistics("layer", kernel, data)
    hats = (data @ kernel - mean) / sigma
    exact, paper = np.zeros((2, 5, 3, 5, 3))
    for x, hat, s in zip(data, hats, sigma[:, 0], strict=True):
        projection = np.eye(5) - 1 / 5 - np.outer(hat, hat) / 5
        outer = np.outer(x, x) / s**2 / len(data)
        exact += np.einsum("ij,de->idje", projection, outer)
        paper += np.einsum("ij,de->idje", np.diag(np.diag(projection) ** 2), outer)
    np.testing.assert_allclose(
        fisher_information(glm, params, xs).part("w", "w"), exact, atol=1e-10
    )
    np.testing.assert_allclose(paper_fisher(glm, params, xs).part("w", "w"), paper, atol=1e-10)
    errors = discrepancy(glm, params, xs, weights_only=True)
    gap, matrix = (a.reshape(15, 15) for a in (exact - paper, exact))
    np.testing.assert_allclose(errors.total, np.linalg.norm(gap) / np.linalg.norm(matrix))
    worst = np.linalg.norm(gap, 2) / np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(errors.largest_eigenvalue, worst)
    own = [np.linalg.norm([a[i, :, i] for i in range(5)]) for a in (exact - paper, exact)]
    np.testing.assert_allclose(errors.diagonal, own[0] / own[1])
    others = np.linalg.norm(gap) ** 2 - own[0] ** 2
    np.testing.assert_allclose(errors.off_diagonal, others**0.5 / np.linalg.norm(matrix))


def test_what_is_refused():
    with pytest.raises(ValueError, match="norm='group' is not known; choose one of 'layer'"):
        GLM("group")
    with pytest.raises(ValueError, match="family='normal' is not known"):
        GLM("layer", "normal")
    with pytest.raises(ValueError, match="family='poisson' has no dispersion"):
        GLM("layer", "poisson", phi=2.0)
    params = GLM("layer").init(jax.random.key(0), 2, 3)
    with pytest.raises(ValueError, match=r"norm=None: expected params\.scale None"):
        GLM(None).natural(params, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"norm='batch': expected params\.scale of shape \(H,\)"):
        GLM("batch").natural(params._replace(scale=None), jnp.ones((1, 2)))

"""Gaussians: streaming moments, shrinkage, Mahalanobis distance.

Notation: n samples, p positions (each with a Gaussian of its own), d numbers a sample.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_EXACT = jax.lax.Precision.HIGHEST


def ledoit_wolf(
  x: Float[Array, "n d"], valid: Bool[Array, " n"]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
  """Mean and shrunk covariance of the valid rows.

  Ledoit & Wolf, A well-conditioned estimator for large-dimensional covariance matrices, Journal of
  Multivariate Analysis 88 (2004), with the formula of scikit-learn: S = X'X/n of the centred rows,
  mu = tr(S)/d, delta = |S - mu I|^2/d, beta = (sum_k |x_k|^4/n - |S|^2)/(n d) clipped to
  [0, delta], and the answer (1 - beta/delta) S + beta/delta mu I.
  """
  n, d = jnp.sum(valid), x.shape[-1]
  mean = jnp.sum(jnp.where(valid[:, None], x, 0), 0) / n
  x = jnp.where(valid[:, None], x - mean, 0)
  s = jnp.matmul(x.T, x, precision=_EXACT) / n
  mu = jnp.trace(s) / d
  eye = jnp.eye(d, dtype=x.dtype)
  delta = jnp.sum(jnp.square(s - mu * eye)) / d
  fourth = jnp.sum(jnp.square(jnp.sum(x * x, -1))) / n
  beta = jnp.clip((fourth - jnp.sum(s * s)) / (n * d), 0, delta)
  weight = jnp.where(delta > 0, beta / jnp.where(delta > 0, delta, 1), 0)
  return mean, (1 - weight) * s + weight * mu * eye


def mahalanobis(
  x: Float[Array, "n d"], mean: Float[Array, " d"], factor: Float[Array, "d d"]
) -> Float[Array, " n"]:
  """Mahalanobis distance (with the root) under the covariance factor @ factor.T, lower."""
  white = jax.scipy.linalg.solve_triangular(factor, (x - mean).T, lower=True)
  return jnp.sqrt(jnp.sum(white * white, axis=0))

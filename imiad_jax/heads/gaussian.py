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


def whitening(factor: Float[Array, "*p d d"]) -> Float[Array, "*p d d"]:
  """Inverse of the lower Cholesky factor of a covariance: it makes samples white.

  For `finish`, which one device runs. Scoring multiplies by it instead of solving with the factor:
  many times faster, and LAPACK's solve within `shard_map` can hang on the CPU, as each device's
  call holds a thread of the pool while it waits for others of the same pool.
  """
  eye = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
  return jax.scipy.linalg.solve_triangular(factor, eye, lower=True)


def mahalanobis(
  x: Float[Array, "n d"], mean: Float[Array, " d"], white: Float[Array, "d d"]
) -> Float[Array, " n"]:
  """Mahalanobis distance (with the root); white is the `whitening` of the covariance's factor."""
  z = jnp.matmul(x - mean, white.T, precision=_EXACT)
  return jnp.sqrt(jnp.sum(z * z, axis=-1))

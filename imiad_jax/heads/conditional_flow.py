"""A normalizing flow of single feature vectors that is told each one's position in its grid.

Notation: p vectors x [p,d] of d numbers, their codes [p,c]; k steps. A step is an affine coupling,
FrEIA's AllInOneBlock with soft permutation: the second half of the numbers is scaled and shifted by
what two linear maps make of the first half and the code, then each number by learnt numbers of its
own, and all are turned by a rotation, which is drawn once and given to every call. All parameters
have the axis k first, so that a step is compiled once.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

Params = dict[str, Array]


def position_code(height: int, width: int, dim: int) -> np.ndarray:
  """Returns [height,width,dim]: sine and cosine of the column in turn, then those of the row.

  Of angular frequency 10000^(-4i/dim), i the number of the pair; dim is a multiple of 4.
  """
  half = dim // 2
  frequency = np.exp(-math.log(1e4) * np.arange(0, half, 2) / half)

  def one(n: int) -> np.ndarray:
    angle = np.arange(n)[:, None] * frequency
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(n, half)

  columns = np.broadcast_to(one(width)[None], (height, width, half))
  rows = np.broadcast_to(one(height)[:, None], (height, width, half))
  return np.concatenate([columns, rows], axis=-1).astype(np.float32)


def rotations(key: Array, steps: int, dim: int) -> Float[Array, "k d d"]:
  """Draws a rotation of R^d for each step, uniform in SO(d): a product of d - 1 reflections.

  As SciPy's special_ortho_group does it. (Several QR decompositions at once, which would do too,
  can wait for each other for ever on a CPU of few cores.)
  """

  def reflect(n: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    """Reflects the last d - n numbers; the sign that this gives to the n-th is kept."""
    turned, signs = carry
    x = jnp.where(jnp.arange(dim) >= n, noise[:, n], 0)  # [k,d]
    sign = jnp.where(x[:, n] < 0, -1.0, 1.0)
    x = x.at[:, n].add(sign * jnp.linalg.norm(x, axis=-1))
    x = x * (2**0.5 / jnp.linalg.norm(x, axis=-1))[:, None]
    along = jnp.einsum("kij,kj->ki", turned, x, precision=jax.lax.Precision.HIGHEST)
    return turned - along[:, :, None] * x[:, None], signs.at[:, n].set(sign)

  noise = jax.random.normal(key, (steps, dim, dim))
  start = jnp.tile(jnp.eye(dim), (steps, 1, 1)), jnp.ones((steps, dim))
  turned, signs = jax.lax.fori_loop(0, dim - 1, reflect, start)
  signs = signs.at[:, -1].set((-1.0) ** (dim - 1) * jnp.prod(signs[:, :-1], axis=-1))
  return turned * signs[:, None]


def begin(key: Array, steps: int, dim: int, code: int) -> Params:
  """Returns the parameters a flow begins with: PyTorch's for linear maps, else the identity."""
  told, moved = dim - dim // 2 + code, dim // 2
  first_key, second_key = jax.random.split(key)

  def linear(key: Array, n: int, m: int) -> tuple[Array, Array]:
    made = jax.random.uniform(key, (steps, n + 1, m), minval=-(n**-0.5), maxval=n**-0.5)
    return made[:, :n], made[:, n]

  first, first_bias = linear(first_key, told, 2 * told)
  second, second_bias = linear(second_key, 2 * told, 2 * moved)
  return {
    "first": first,
    "first_bias": first_bias,
    "second": second,
    "second_bias": second_bias,
    "scale": jnp.full((steps, dim), 2 * math.log(math.exp(5) - 1)),
    "shift": jnp.zeros((steps, dim)),
  }


def _coefficients(params: Params, kept: Array, code: Array, clamp: float) -> tuple[Array, Array]:
  """Returns log-scale, within +-clamp, and shift of the second half, given the first."""
  told = jnp.concatenate([kept, code], axis=-1)
  hidden = nn.relu(told @ params["first"] + params["first_bias"])
  a, shift = jnp.split(0.1 * (hidden @ params["second"] + params["second_bias"]), 2, axis=-1)
  return clamp * jnp.tanh(a / clamp), shift


def _gain(params: Params) -> Array:
  """Returns the scale of each number, above 0."""
  return 0.2 * nn.softplus(0.5 * params["scale"])


def forward(
  params: Params,
  rotations: Float[Array, "k d d"],
  x: Float[Array, "p d"],
  code: Float[Array, "p c"],
  clamp: float,
) -> tuple[Float[Array, "p d"], Float[Array, " p"]]:
  """Returns z and log|det dz/dx|."""
  half = x.shape[-1] - x.shape[-1] // 2

  def step(
    carry: tuple[Array, Array], at: tuple[Params, Array]
  ) -> tuple[tuple[Array, Array], None]:
    (x, total), (params, rotation) = carry, at
    kept, moved = x[:, :half], x[:, half:]
    log_scale, shift = _coefficients(params, kept, code, clamp)
    gain = _gain(params)
    y = jnp.concatenate([kept, moved * jnp.exp(log_scale) + shift], -1) * gain + params["shift"]
    total += jnp.sum(log_scale, -1) + jnp.sum(jnp.log(gain))
    return (y @ rotation.T, total), None

  return jax.lax.scan(step, (x, jnp.zeros(len(x))), (params, rotations))[0]


def inverse(
  params: Params,
  rotations: Float[Array, "k d d"],
  z: Float[Array, "p d"],
  code: Float[Array, "p c"],
  clamp: float,
) -> Float[Array, "p d"]:
  """Returns the x of a z."""
  half = z.shape[-1] - z.shape[-1] // 2

  def step(y: Array, at: tuple[Params, Array]) -> tuple[Array, None]:
    params, rotation = at
    y = (y @ rotation - params["shift"]) / _gain(params)
    kept, moved = y[:, :half], y[:, half:]
    log_scale, shift = _coefficients(params, kept, code, clamp)
    return jnp.concatenate([kept, (moved - shift) * jnp.exp(-log_scale)], -1), None

  return jax.lax.scan(step, z, (params, rotations), reverse=True)[0]


def log_likelihood(
  params: Params,
  rotations: Float[Array, "k d d"],
  x: Float[Array, "p d"],
  code: Float[Array, "p c"],
  clamp: float,
) -> Float[Array, " p"]:
  """Returns log p(x) / d of each vector, under a normal z."""
  z, log_det = forward(params, rotations, x, code, clamp)
  d = x.shape[-1]
  return (log_det - 0.5 * jnp.sum(jnp.square(z), -1)) / d - 0.5 * math.log(2 * math.pi)

"""Affine warps of grids, as PyTorch's affine_grid and grid_sample do them (align_corners=False).

Notation: a map theta [2,3] takes a place of the output, (x, y) in [-1,1] from edge to edge, to the
place of the input whose value it gets: bilinear, and mirrored at the edges.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def affine(x: Float[Array, "b h w c"], theta: Float[Array, "b 2 3"]) -> Float[Array, "b h w c"]:
  """Returns x warped, each image by its own map; differentiable in both."""
  return jax.vmap(_one)(x, theta)


def _one(x: Float[Array, "h w c"], theta: Float[Array, "2 3"]) -> Float[Array, "h w c"]:
  h, w, _ = x.shape
  down = ((2 * jnp.arange(h) + 1) / h - 1)[:, None]
  right = ((2 * jnp.arange(w) + 1) / w - 1)[None, :]
  at_x, at_y = (row[0] * right + row[1] * down + row[2] for row in theta)
  i, to_i = _mirrored((at_y + 1) * h / 2 - 0.5, h)
  j, to_j = _mirrored((at_x + 1) * w / 2 - 0.5, w)
  below, beside = jnp.minimum(i + 1, h - 1), jnp.minimum(j + 1, w - 1)
  to_i, to_j = to_i[..., None], to_j[..., None]
  upper = x[i, j] * (1 - to_j) + x[i, beside] * to_j
  lower = x[below, j] * (1 - to_j) + x[below, beside] * to_j
  return upper * (1 - to_i) + lower * to_i


def _mirrored(place: Float[Array, "h w"], n: int) -> tuple[Array, Float[Array, "h w"]]:
  """Returns the cell before a place among n cells, and how far behind it the place lies, in [0,1].

  Places beyond the outer edges, -0.5 and n - 0.5, are mirrored there as often as it takes.
  """
  place = jnp.abs(place + 0.5) % (2 * n)
  place = jnp.clip(jnp.minimum(place, 2 * n - place) - 0.5, 0, n - 1)
  cell = jax.lax.stop_gradient(jnp.floor(place))
  return cell.astype(jnp.int32), place - cell


def inverse(theta: Float[Array, "b 2 3"]) -> Float[Array, "b 2 3"]:
  """Returns the maps back; they are not finite where a map is singular."""
  a, b, tx = theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2]
  c, d, ty = theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2]
  det = a * d - b * c
  top = jnp.stack([d, -b, b * ty - d * tx], axis=-1)
  bottom = jnp.stack([-c, a, c * tx - a * ty], axis=-1)
  return jnp.stack([top, bottom], axis=1) / det[:, None, None]

"""Perlin noise, textures to paste as defects, and what turns one texture into many.

All are pure functions of a key and one image, or an image's size; use `jax.lax.map` or `jax.vmap`
for many. An image is [h,w,3] float32 in [0,1]; a field is [h,w] in [0,1].
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from PIL import Image

from imiad_jax.errors import UserError

_CELLS = 32  # most cells of a lattice along an axis
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp"}


def perlin(
  gradients: Float[Array, "i j 2"], y: Float[Array, "h w"], x: Float[Array, "h w"]
) -> Float[Array, "h w"]:
  """Perlin noise at lattice coordinates y in [0,i-1), x in [0,j-1): 0 at the nodes.

  `gradients` (y, x) at the nodes are of unit length, which keeps the noise within +-1. Fade
  6t^5 - 15t^4 + 10t^3, scaled by sqrt(2) (Perlin, SIGGRAPH 2002).
  """
  cell_y, cell_x = jnp.floor(y), jnp.floor(x)
  t_y, t_x = y - cell_y, x - cell_x
  i, j = cell_y.astype(jnp.int32), cell_x.astype(jnp.int32)

  def slope(down: int, right: int) -> Array:
    gradient = gradients[i + down, j + right]
    return (t_y - down) * gradient[..., 0] + (t_x - right) * gradient[..., 1]

  def fade(t: Array) -> Array:
    return t**3 * (t * (6 * t - 15) + 10)

  down, right = fade(t_y), fade(t_x)
  left_side = slope(0, 0) + (slope(1, 0) - slope(0, 0)) * down
  right_side = slope(0, 1) + (slope(1, 1) - slope(0, 1)) * down
  return math.sqrt(2) * (left_side + (right_side - left_side) * right)


def _gradients(key: Array, *shape: int) -> Array:
  angle = jax.random.uniform(key, (*shape, _CELLS + 1, _CELLS + 1), maxval=2 * jnp.pi)
  return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def _grid(height: int, width: int) -> tuple[Array, Array]:
  """Returns y and x [h,w] of each pixel, in [0,1)."""
  y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
  return y / height, x / width


def blots(
  key: Array, height: int, width: int, threshold: float = 0.5
) -> Bool[Array, "{height} {width}"]:
  """DRAEM's random masks, empty now and then: where turned Perlin noise is above `threshold`.

  2^k cells along each axis, k uniform in 0..5 for either, turned by U(-90, 90) degrees about the
  centre; what comes from outside is 0. Turned are the coordinates, so that nothing is interpolated.
  """
  lattice_key, cells_key, turn_key = jax.random.split(key, 3)
  cells = 2.0 ** jax.random.randint(cells_key, (2,), 0, 6)
  turn = jax.random.uniform(turn_key, minval=-jnp.pi / 2, maxval=jnp.pi / 2)
  y, x = jnp.mgrid[:height, :width].astype(jnp.float32)
  y, x = y - (height - 1) / 2, x - (width - 1) / 2
  c, s = jnp.cos(turn), jnp.sin(turn)
  y, x = c * y + s * x + (height - 1) / 2, c * x - s * y + (width - 1) / 2
  inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
  y, x = (jnp.where(inside, v, 0) for v in (y, x))
  noise = perlin(_gradients(lattice_key), y * cells[0] / height, x * cells[1] / width)
  return inside & (noise > threshold)


def clouds(key: Array, height: int, width: int) -> Float[Array, "{height} {width}"]:
  """Four octaves of Perlin noise, from 2 to 4 cells on, each with half the weight of the last."""
  lattice_key, cells_key = jax.random.split(key)
  y, x = _grid(height, width)
  fold = 2.0 ** jnp.arange(4)
  cells = fold * 2 ** jax.random.uniform(cells_key, minval=1.0, maxval=2.0)
  octaves = jax.vmap(lambda g, n: perlin(g, y * n, x * n))(_gradients(lattice_key, 4), cells)
  return jnp.clip(0.5 + 0.5 * jnp.tensordot(1 / fold, octaves, 1), 0, 1)


def _waves(key: Array, height: int, width: int, n: int) -> Float[Array, "{n} {height} {width}"]:
  """Returns waves of 2 to 24 periods in orthogonal directions, sinusoidal to nearly square."""
  turn_key, period_key, phase_key, sharp_key = jax.random.split(key, 4)
  y, x = _grid(height, width)
  turn = jax.random.uniform(turn_key, maxval=jnp.pi) + jnp.pi / 2 * jnp.arange(n)
  periods = 2 * 12 ** jax.random.uniform(period_key, (n,))
  phase = jax.random.uniform(phase_key, (n,))
  along = jnp.cos(turn)[:, None, None] * y + jnp.sin(turn)[:, None, None] * x
  wave = jnp.sin(2 * jnp.pi * (along * periods[:, None, None] + phase[:, None, None]))
  return jnp.tanh(wave * 10 ** jax.random.uniform(sharp_key))


def stripes(key: Array, height: int, width: int) -> Float[Array, "{height} {width}"]:
  """Parallel stripes, 2 to 24 across the image, with soft or hard edges."""
  return 0.5 + 0.5 * _waves(key, height, width, 1)[0]


def checkers(key: Array, height: int, width: int) -> Float[Array, "{height} {width}"]:
  """The product of stripes and others at right angles to them."""
  return 0.5 + 0.5 * jnp.prod(_waves(key, height, width, 2), axis=0)


def cells(key: Array, height: int, width: int, n: int = 48) -> Float[Array, "{height} {width}"]:
  """Voronoi cells of n random points, each of one random value."""
  place_key, value_key = jax.random.split(key)
  point = jax.random.uniform(place_key, (n, 2))
  y, x = _grid(height, width)
  square = (y[..., None] - point[:, 0]) ** 2 + (x[..., None] - point[:, 1]) ** 2
  return jax.random.uniform(value_key, (n,))[jnp.argmin(square, axis=-1)]


_FIELDS = (clouds, stripes, checkers, cells)


def coloured(key: Array, field: Float[Array, "h w"], colours: int = 5) -> Float[Array, "h w 3"]:
  """Maps a field's values to colours between `colours` random ones."""
  palette = jax.random.uniform(key, (colours, 3))
  place = jnp.linspace(0, 1, colours)
  return jnp.stack([jnp.interp(field, place, palette[:, c]) for c in range(3)], axis=-1)


def procedural(key: Array, height: int, width: int) -> Float[Array, "{height} {width} 3"]:
  """Draws a texture: clouds of each channel by itself, or a random field in random colours.

  Every other one of these has clouds of each channel mixed in. All are greyed by a random share,
  for few things are as colourful as random numbers.
  """
  kind_key, colour_key, cloud_key, field_key, mix_key, grey_key = jax.random.split(key, 6)
  kind = jax.random.randint(kind_key, (), 0, len(_FIELDS))
  field = jax.lax.switch(kind, [lambda k, f=f: f(k, height, width) for f in _FIELDS], field_key)
  plain = coloured(colour_key, field)
  cloud = jax.vmap(lambda k: clouds(k, height, width), out_axes=-1)
  cloudy = cloud(jax.random.split(cloud_key, 3))
  share = jnp.maximum(jax.random.uniform(mix_key, minval=-0.8, maxval=0.8), 0)
  image = jnp.where(kind == 0, cloudy, plain + share * (cloudy - plain))
  grey = jnp.mean(image, axis=-1, keepdims=True)
  return grey + jax.random.uniform(grey_key) * (image - grey)


def stack(key: Array, n: int, height: int, width: int) -> UInt8[Array, "{n} {height} {width} 3"]:
  """Draws n procedural textures, one after the other."""

  def one(key: Array) -> Array:
    return jnp.round(255 * procedural(key, height, width)).astype(jnp.uint8)

  return jax.lax.map(one, jax.random.split(key, n))


def read(folder: str, n: int, size: int) -> UInt8[np.ndarray, "m {size} {size} 3"]:
  """Reads the pictures below a folder, squashed to size x size: n drawn of them, or all.

  Which ones is a function of the names of the files alone.

  Raises:
    UserError: there are none, or one that cannot be read.
  """
  files = sorted(p for p in Path(folder).expanduser().rglob("*") if p.suffix.lower() in _SUFFIXES)
  if not files:
    raise UserError(
      f'textures is "{folder}", where no pictures are. Name a folder with pictures in it or below,'
      ' such as the "images" of DTD, or leave it empty for drawn textures.'
    )
  if len(files) > n:
    chosen = np.random.default_rng(0).choice(len(files), n, replace=False)
    files = [files[i] for i in sorted(chosen)]

  def one(path: Path) -> np.ndarray:
    try:
      with Image.open(path) as picture:
        resized = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except OSError as e:
      raise UserError(f"{path} cannot be read as a picture ({e}); remove or replace it.") from e
    return np.asarray(resized)

  return np.stack([one(path) for path in files])

"""Image augmentations as pure functions of a key and one image; use `jax.vmap` for a batch.

An image is [h,w,3] float32 in [0,1].
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2 luma, as Pillow's "L"
_YIQ = np.array(
  [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32
)

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def standardise(image: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
  """Returns images with the mean and deviation of ImageNet's colours as 0 and 1."""
  return (image - jnp.array(_MEAN)) / jnp.array(_DEVIATION)


def jitter(
  key: Array, image: Float[Array, "h w 3"], strength: float = 0.1
) -> Float[Array, "h w 3"]:
  """Random brightness, contrast, saturation (each times 1 +- strength) and hue (+- strength turns).

  The four operations of torchvision's ColorJitter, always in this order; hue turns the colour
  plane of YIQ instead of going through HSV, which keeps it smooth and cheap.
  """
  u = jax.random.uniform(key, (4,), minval=-strength, maxval=strength)
  x = jnp.clip(image * (1 + u[0]), 0, 1)
  grey = jnp.mean(x @ GREY)
  x = jnp.clip(grey + (x - grey) * (1 + u[1]), 0, 1)
  luma = (x @ GREY)[..., None]
  x = jnp.clip(luma + (x - luma) * (1 + u[2]), 0, 1)
  angle = 2 * jnp.pi * u[3]
  c, s = jnp.cos(angle), jnp.sin(angle)
  turn = jnp.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
  turn = turn.at[1:, 1:].set(jnp.array([[c, -s], [s, c]]))
  return jnp.clip(x @ (np.linalg.inv(_YIQ) @ turn @ _YIQ).T, 0, 1)


def rotate(image: Float[Array, "h w 3"], angle: Float[Array, ""]) -> Float[Array, "h w 3"]:
  """Turns an image counter-clockwise by `angle` radians about its centre; nearest pixel, else 0."""
  height, width, _ = image.shape
  y = jnp.arange(height)[:, None] - (height - 1) / 2
  x = jnp.arange(width)[None, :] - (width - 1) / 2
  c, s = jnp.cos(angle), jnp.sin(angle)
  from_y = jnp.round(c * y + s * x + (height - 1) / 2).astype(jnp.int32)
  from_x = jnp.round(c * x - s * y + (width - 1) / 2).astype(jnp.int32)
  inside = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
  turned = image[jnp.clip(from_y, 0, height - 1), jnp.clip(from_x, 0, width - 1)]
  return jnp.where(inside[..., None], turned, 0)


def rectangle(
  key: Array, height: int, width: int, aspect: float | Float[Array, ""] = 0.3
) -> tuple[Array, Array, Array, Array, Array, Array]:
  """Draws CutPaste's patch: (cut height, cut width, from y, from x, to y, to x), int32.

  The area is U(0.02, 0.15) of the image, the ratio of width to height log-uniform between
  `aspect` and 1/`aspect`; both corners are uniform such that the patch fits (Li, Sohn, Yoon,
  Pfister, CVPR 2021, arXiv 2104.04015).
  """
  area_key, ratio_key, place_key = jax.random.split(key, 3)
  area = jax.random.uniform(area_key, minval=0.02, maxval=0.15) * height * width
  log = jnp.log(jnp.asarray(aspect, jnp.float32))
  ratio = jnp.exp(jax.random.uniform(ratio_key, minval=log, maxval=-log))
  h = jnp.clip(jnp.round(jnp.sqrt(area / ratio)), 1, height)
  w = jnp.clip(jnp.round(jnp.sqrt(area * ratio)), 1, width)
  u = jax.random.uniform(place_key, (2, 2))
  corner = jnp.floor(u * jnp.stack([height - h + 1, width - w + 1]))
  (sy, sx), (ty, tx) = corner.astype(jnp.int32)
  return h.astype(jnp.int32), w.astype(jnp.int32), sy, sx, ty, tx


def cutpaste(
  key: Array,
  image: Float[Array, "h w 3"],
  aspect: float | Float[Array, ""] = 0.3,
  strength: float = 0.1,
) -> tuple[Float[Array, "h w 3"], Bool[Array, "h w"]]:
  """Pastes a colour-jittered rectangle of the image elsewhere; returns it and where it went."""
  place_key, jitter_key = jax.random.split(key)
  height, width, _ = image.shape
  h, w, sy, sx, ty, tx = rectangle(place_key, height, width, aspect)
  y, x = jnp.arange(height), jnp.arange(width)
  inside = ((y >= ty) & (y < ty + h))[:, None] & ((x >= tx) & (x < tx + w))[None, :]
  rows = jnp.clip(y - ty + sy, 0, height - 1)
  columns = jnp.clip(x - tx + sx, 0, width - 1)
  moved = (
    jitter(jitter_key, image[rows][:, columns], strength) if strength else (image[rows][:, columns])
  )
  return jnp.where(inside[..., None], moved, image), inside


def strip(
  key: Array, height: int, width: int
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
  """Draws CutPaste's scar: (cut height, cut width, from y, from x, to y, to x, angle), float32.

  In an image of 256 pixels, to whose size it is scaled, it is U(10, 25) high and U(2, 16) wide, in
  whole pixels; it is turned by U(-45, 45) degrees, given in radians. Its corner there, and that of
  the box around it here, are uniform such that both fit.
  """
  size_key, angle_key, place_key = jax.random.split(key, 3)
  least, most = jnp.array([10.0, 2.0]), jnp.array([25.0, 16.0])
  drawn = jax.random.uniform(size_key, (2,), minval=least, maxval=most)
  cut = jnp.maximum(jnp.round(drawn * min(height, width) / 256), 1)
  angle = jax.random.uniform(angle_key, minval=-jnp.pi / 4, maxval=jnp.pi / 4)
  c, s = jnp.cos(angle), jnp.abs(jnp.sin(angle))
  around = jnp.stack([c * cut[0] + s * cut[1], s * cut[0] + c * cut[1]])
  u = jax.random.uniform(place_key, (2, 2))
  size = jnp.array([height, width])
  sy, sx = jnp.floor(u[0] * (size - cut + 1))
  ty, tx = u[1] * (size - around)
  return *cut, sy, sx, ty, tx, angle


def scar(
  key: Array, image: Float[Array, "h w 3"], strength: float = 0.1
) -> tuple[Float[Array, "h w 3"], Bool[Array, "h w"]]:
  """Pastes a colour-jittered, turned strip of the image elsewhere; returns it and where it went.

  A pixel whose centre, turned back, lies in the strip takes the strip's pixel there.
  """
  place_key, jitter_key = jax.random.split(key)
  height, width, _ = image.shape
  h, w, sy, sx, ty, tx, angle = strip(place_key, height, width)
  c, s = jnp.cos(angle), jnp.sin(angle)
  # From the centre of the box around the strip, then along the strip's own axes.
  y = (jnp.arange(height) + 0.5 - ty - (c * h + jnp.abs(s) * w) / 2)[:, None]
  x = (jnp.arange(width) + 0.5 - tx - (jnp.abs(s) * h + c * w) / 2)[None, :]
  row = jnp.floor(c * y + s * x + h / 2)
  column = jnp.floor(c * x - s * y + w / 2)
  inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
  rows = (sy + jnp.clip(row, 0, h - 1)).astype(jnp.int32)
  columns = (sx + jnp.clip(column, 0, w - 1)).astype(jnp.int32)
  moved = image[rows, columns]
  moved = jitter(jitter_key, moved, strength) if strength else moved
  return jnp.where(inside[..., None], moved, image), inside

"""Views of few training images: the six augmentations of the paper's few-shot setting.

Each gives four more pictures of an image, on the host, before features are taken (IM-IAD,
arXiv 2301.13359, Table IX). The strengths are those of the benchmark's code, which however let
them pile up from copy to copy; here every view is made from the image itself. What comes from
outside an image is black.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

COUNT = 4  # views of an image, besides itself

Rng = np.random.Generator


def copies(kind: str) -> int:
  """Returns how many pictures of each image a task has: with the views of `kind`, or "none"."""
  return 1 if kind == "none" else 1 + COUNT


def add(images: UInt8[np.ndarray, "n h w 3"], kind: str, seed: int) -> UInt8[np.ndarray, "m h w 3"]:
  """Returns the images, then their first views, then their second ones, and so on.

  Args:
    images: [n,h,w,3].
    kind: a key of KINDS.
    seed: decides what is random in a view: the direction of a shift, a perspective's corners.
  """
  view = KINDS[kind]
  out = [images]
  for k in range(1, COUNT + 1):
    rngs = (np.random.default_rng((seed, i, k)) for i in range(len(images)))
    seen = [view(Image.fromarray(x), k, rng) for x, rng in zip(images, rngs, strict=True)]
    out.append(np.stack([np.asarray(x) for x in seen]))
  return np.concatenate(out)


def _rotation(image: Image.Image, k: int, rng: Rng) -> Image.Image:
  """Turned by k fifths of a circle: 72, 144, 216 and 288 degrees."""
  del rng
  return image.rotate(360 * k / (COUNT + 1), Image.Resampling.BILINEAR)


def _scale(image: Image.Image, k: int, rng: Rng) -> Image.Image:
  """Shrunk about the centre to 0.875, 0.75, 0.625 and 0.5."""
  del rng
  scale = 1 - 0.5 * k / COUNT
  w, h = image.size
  shrunk = image.resize((round(w * scale), round(h * scale)), Image.Resampling.BILINEAR)
  out = Image.new("RGB", image.size)
  out.paste(shrunk, ((w - shrunk.width) // 2, (h - shrunk.height) // 2))
  return out


def _translate(image: Image.Image, k: int, rng: Rng) -> Image.Image:
  """Shifted by up to 1/8, 2/8, 3/8 and 4/8 of the size along both axes, at random."""
  most = 0.5 * k / COUNT
  shift = (rng.uniform(-most, most, 2) * image.size).round().astype(int)
  out = Image.new("RGB", image.size)
  out.paste(image, (int(shift[0]), int(shift[1])))
  return out


def _flip(image: Image.Image, k: int, rng: Rng) -> Image.Image:
  """Mirrored left to right, top to bottom, both, and by a coin for each."""
  across, down = (k in (1, 3), k in (2, 3)) if k < 4 else rng.random(2) < 0.5
  if across:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down else image


def _color_jitter(image: Image.Image, k: int, rng: Rng) -> Image.Image:
  """Brightness and contrast each by a factor from [1-b, 1+b], b = 0.5, 0.83, 1.17 and 1.5."""
  strength = np.linspace(0.5, 1.5, COUNT)[k - 1]
  factors = rng.uniform(max(0, 1 - strength), 1 + strength, 2)
  image = ImageEnhance.Brightness(image).enhance(float(factors[0]))
  return ImageEnhance.Contrast(image).enhance(float(factors[1]))


def _perspective(image: Image.Image, k: int, rng: Rng) -> Image.Image:
  """Each corner pulled in at random by up to 1/16, 2/16, 3/16 and 4/16 of the size."""
  size = np.array(image.size, float)
  corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
  inwards = np.where(corners == 0, 1, -1) * rng.uniform(0, 0.25 * k / COUNT, (4, 2))
  target, source = (corners + inwards) * size, corners * size
  # The eight coefficients that take target points (x, y) to source points (u, v):
  # u = (a x + b y + c) / (g x + h y + 1), v = (d x + e y + f) / (g x + h y + 1).
  rows, right = [], []
  for (x, y), (u, v) in zip(target, source, strict=True):
    rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    right += [u, v]
  coefficients = np.linalg.solve(np.array(rows), np.array(right))
  how = Image.Transform.PERSPECTIVE
  return image.transform(image.size, how, coefficients.tolist(), Image.Resampling.BILINEAR)


KINDS: dict[str, Callable[[Image.Image, int, Rng], Image.Image]] = {
  "rotation": _rotation,
  "scale": _scale,
  "translate": _translate,
  "flip": _flip,
  "color_jitter": _color_jitter,
  "perspective": _perspective,
}

"""The pictures of a run's evidence as data URIs."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from imiad_jax import evidence, gallery


def image(test: evidence.Test, k: int) -> str:
  """Returns the k-th picture."""
  return _uri(test.image[k])


def truth(test: evidence.Test, k: int) -> str:
  """Returns the k-th picture, dimmed where there is no defect."""
  dimmed = gallery.outline(test.image[k] // 2, test.mask[k])
  dimmed[test.mask[k]] = test.image[k][test.mask[k]]
  return _uri(dimmed)


def heat(test: evidence.Test, k: int) -> str:
  """Returns the map of the k-th picture, with its defect; "" where it has none."""
  if not len(test.map):
    return ""
  return _uri(gallery.outline(gallery.heat(test.map[k], 0.0, 1.0), test.mask[k]))


def _uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
  """Returns a picture as a data URI."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, format="WEBP", quality=65)
  return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()

"""EfficientAD's teachers, S and M: patch description networks (arXiv 2303.14535).

Batzner, Heckler, Koenig distilled them from a Wide ResNet-101 on ImageNet and did not publish them.
The weights are those of the reimplementation github.com/nelson1425/EfficientAD, which reaches the
paper's numbers. They were distilled with padding and are used, there as here, without.
"""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from imiad_jax import images, plugins, weights
from imiad_jax.backbones import common
from imiad_jax.backbones.common import Source
from imiad_jax.errors import UserError
from imiad_jax.heads import pdn

_ORIGIN = "https://github.com/nelson1425/EfficientAD/raw/main/models/"
VARIANTS = {f"pdn_{kind}": Source({f"teacher_{kind}.pth": ""}, _ORIGIN) for kind in pdn.KINDS}
_FEATURES = 384


class Model(nn.Module):
  """A teacher. `variant` is a name in VARIANTS."""

  variant: str

  @nn.compact
  def __call__(self, image: Float[Array, "b h w 3"]) -> dict[str, jax.Array]:
    """Returns the one stage of images in [0,1], "teacher": [b,h/4-8,w/4-8,384].

    Raises UserError for images smaller than the 33 pixels that a cell sees.
    """
    plugins.check("backbone", self.variant, VARIANTS)
    if min(image.shape[1:3]) < pdn.FIELD:
      h, w = image.shape[1:3]
      raise UserError(
        f"{self.variant} needs images of {pdn.FIELD} pixels, but these are {h} x {w}."
      )
    kind = _kind(self.variant)
    net = pdn.PDN(kind, pdn.WIDTHS[kind], _FEATURES, name="pdn")
    return {"teacher": net(images.standardise(image))}


def load(variant: str, path: str | None = None) -> tuple[dict[str, Any], str]:
  """Returns the parameters of a variant, nested NumPy float32, and the sha256 of their file.

  The file is `path`, else one in the weights folder. Raises UserError when there is none, or when
  it is another model's.
  """
  plugins.check("backbone", variant, VARIANTS)
  state, file, digest = common.read(variant, VARIANTS[variant], path)
  shapes = _shapes(variant)
  weights.check(state, shapes, (), file)
  params = {}
  for i, name in enumerate(dict.fromkeys(name.split(".")[0] for name in shapes), start=1):
    kernel, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    params[f"conv{i}"] = {
      "kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0), np.float32),
      "bias": np.array(bias, np.float32),
    }
  return {"pdn": params}, digest


def _kind(variant: str) -> str:
  return variant.removeprefix("pdn_")


def _shapes(variant: str) -> dict[str, tuple[int, ...]]:
  """Returns the tensors of a weight file: its layers are numbered, ReLUs and pools with them."""
  kind = _kind(variant)
  shapes: dict[str, tuple[int, ...]] = {}
  place, channels = 0, 3
  for i, (size, times) in enumerate(pdn.KINDS[kind]):
    features = pdn.WIDTHS[kind] * times or _FEATURES
    shapes[f"{place}.weight"] = (features, channels, size, size)
    shapes[f"{place}.bias"] = (features,)
    place, channels = place + (3 if i < 2 else 2), features
  return shapes

"""Metrics of detection, of localisation and of forgetting, on all devices.

binary, per_kind    images: AUROC, AP, F1-max; of all defects, of each kind
pixel               pixels: AUROC, AP, F1-max, PRO
spro, loco          saturated PRO of defects that saturate; MVTec LOCO's summary of it
intervals           what chance may have done to binary's values: a bootstrap over images
streaming           a second way to the values of pixels, in a memory that does not grow with
                    the images, each with a bound on its error
forgetting          of a sequence of tasks
"""

from imiad_jax.metrics import streaming
from imiad_jax.metrics.continual import forgetting
from imiad_jax.metrics.detection import binary, per_kind
from imiad_jax.metrics.intervals import intervals
from imiad_jax.metrics.localisation import BUDGET, loco, pixel, spro
from imiad_jax.metrics.marks import Defects, resize

VERSION = "1"

__all__ = [
  "BUDGET",
  "VERSION",
  "Defects",
  "binary",
  "forgetting",
  "intervals",
  "loco",
  "per_kind",
  "pixel",
  "resize",
  "spro",
  "streaming",
]

"""The anomalous pixels of images: where they are, and what each adds to its region's overlap.

Notation: region r of R has |r| pixels and saturates at s_r of them. Its overlap at a threshold t is

  min(c_r(t) / s_r, 1), c_r(t) its pixels with a score >= t

with s_r = |r| for PRO (Bergmann et al. 2021, MVTec AD, IJCV 129, section 5.2) and s_r from the data
set for saturated PRO (Bergmann et al. 2022, Beyond Dents and Scratches, IJCV 130, section 5). It is
the sum of a weight for each pixel detected: 1/s_r for the s_r highest of the region, 0 for the
others. Where several pixels of one score lie on the border of the s_r highest it does not matter
which of them are taken: they are detected together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

Defects = Sequence[Sequence[tuple[np.ndarray, int]]]  # of each image: [h,w] bool and saturation


class Marks(NamedTuple):
  """The anomalous pixels of some images."""

  place: np.ndarray  # [p] int64: place among all pixels of the images, ascending
  weight: np.ndarray  # [p] float64: summed over all pixels, the number of regions
  regions: int


def of_regions(region: Integer[np.ndarray, "n h w"], valid: Bool[np.ndarray, " n"]) -> Marks:
  """Returns the pixels of connected regions, weighted for PRO: each by 1/|r|.

  Args:
    region: [n,h,w] 0 normal, k > 0 the k-th connected region of that image.
    valid: [n] images with False are left out.
  """
  place = np.flatnonzero(region > 0)
  image = place // max(region[:1].size, 1)
  if not valid.all():
    place, image = place[valid[image]], image[valid[image]]
  name = region.reshape(-1)[place].astype(np.int64) + (image << 32)  # unique in all images
  _, owner, area = np.unique(name, return_inverse=True, return_counts=True)
  return Marks(place, 1 / area[owner], len(area))


def of_defects(
  score: Float[np.ndarray, "n h w"], defects: Defects, valid: Bool[np.ndarray, " n"]
) -> Marks:
  """Returns the pixels of defects, weighted for saturated PRO; those of several count in each.

  Raises:
    ValueError: the defects are not those of n images of h x w, one has no pixel, or one saturates
      at less than one pixel.
  """
  if len(defects) != len(score):
    raise ValueError(f"defects are of {len(defects)} images, but scores of {len(score)}")
  places, weights, regions = [np.zeros(0, np.int64)], [np.zeros(0)], 0
  for i, chosen in enumerate(valid):
    if not chosen or not defects[i]:
      continue
    values = score[i].reshape(-1).astype(np.float32)
    weight, inside = np.zeros(values.size), np.zeros(values.size, bool)
    for mask, saturation in defects[i]:
      _check(i, mask, saturation, score.shape[1:])
      own = np.flatnonzero(mask)
      s = min(int(saturation), len(own))  # as MVTec's own evaluation does
      highest = own[np.argpartition(-values[own], s - 1)[:s]]
      weight[highest] += 1 / s
      inside[own] = True
    place = np.flatnonzero(inside)
    places.append(place + i * values.size)
    weights.append(weight[place])
    regions += len(defects[i])
  return Marks(np.concatenate(places), np.concatenate(weights), regions)


def _check(image: int, mask: np.ndarray, saturation: int, shape: tuple[int, ...]) -> None:
  if mask.dtype != bool or mask.shape != shape or not mask.any():
    raise ValueError(
      f"a defect of image {image} is {mask.dtype}{list(mask.shape)} with {np.count_nonzero(mask)} "
      f"pixels, but must be bool{list(shape)} with at least one"
    )
  if saturation < 1:
    raise ValueError(f"a defect of image {image} saturates at {saturation}, but 1 pixel is least")


def resize(defects: Defects, height: int, width: int) -> list[list[tuple[np.ndarray, int]]]:
  """Returns the defects at another resolution, for maps that are not at the original one.

  Saturated PRO is defined at the original resolution; at another one it is an approximation, and
  must be called so. Masks take the nearest pixel. The saturation keeps its share of the area,
  rounded, at least one pixel. A defect of which no pixel is left is left out.
  """
  out: list[list[tuple[np.ndarray, int]]] = []
  for image in defects:
    out.append([])
    for mask, saturation in image:
      y = (np.arange(height) * 2 + 1) * mask.shape[0] // (2 * height)
      x = (np.arange(width) * 2 + 1) * mask.shape[1] // (2 * width)
      small = mask[y[:, None], x]
      share = min(saturation / np.count_nonzero(mask), 1)
      if small.any():
        out[-1].append((small, max(round(share * np.count_nonzero(small)), 1)))
  return out


def weights(marks: Marks) -> Float64[np.ndarray, "2 p"]:
  """Returns the weights of the curves: in the ROC curve 1/p each, in the PRO curve its share."""
  p, regions = max(len(marks.place), 1), max(marks.regions, 1)
  return np.stack([np.full(len(marks.place), 1 / p), marks.weight / regions])

"""A picture of what a run saw: image, ground truth and heat map with the defect outlined."""

import os
import pathlib

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from imiad_jax import engine, features

_COLD_TO_HOT = np.array(  # equally spaced colours, dark to bright
  [[8, 6, 40], [70, 15, 110], [150, 40, 110], [225, 85, 60], [250, 165, 30], [250, 250, 170]]
)
_OUTLINE = np.array([60, 255, 90], np.uint8)
_GAP, _TEXT = 4, 14


def heat(score: Float[np.ndarray, "h w"], low: float, high: float) -> UInt8[np.ndarray, "h w 3"]:
  """Colours a map; `low` and below is darkest, `high` and above brightest."""
  x = np.clip((score - low) / max(high - low, 1e-12), 0, 1)
  stops = np.linspace(0, 1, len(_COLD_TO_HOT))
  channels = [np.interp(x, stops, _COLD_TO_HOT[:, k]) for k in range(3)]
  return np.stack(channels, axis=-1).astype(np.uint8)


def outline(
  image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
  """Draws the border of a mask, just outside of it."""
  border = scipy.ndimage.binary_dilation(mask) & ~mask
  return np.where(border[..., None], _OUTLINE, image)


def choose(score: Float[np.ndarray, " n"], label: np.ndarray, count: int) -> np.ndarray:
  """Picks rows to show: the normal ones with the highest scores, anomalous ones of all scores.

  A quarter are normal. The anomalous ones are evenly spaced by score, the lowest one first.
  """
  normal, anomalous = np.flatnonzero(label == 0), np.flatnonzero(label == 1)
  worst = normal[np.argsort(-score[normal])][: max(1, count // 4)]
  ranked = anomalous[np.argsort(score[anomalous])]
  spread = np.linspace(0, len(ranked) - 1, min(len(ranked), count - len(worst))).round().astype(int)
  return np.concatenate([ranked[spread], worst])


def write(
  file: pathlib.Path, outcomes: list[engine.Outcome], store: features.Store, size: int, count: int
) -> None:
  """Writes a PNG with `count` test images of the last tests, a row for each.

  Heat maps share one scale: from the 1st percentile of all their pixels to the highest.
  """
  rows = np.concatenate([o.rows for o in outcomes])
  score = np.concatenate([o.scores.image for o in outcomes])
  shown = choose(score, store.index.label[rows], count)
  pixels = store.pixels(rows[shown], size)
  maps = [o.scores.pixel for o in outcomes if o.scores.pixel is not None]
  maps = np.concatenate(maps)[shown] if maps else None
  columns = 2 if maps is None else 3
  width, height = columns * (size + _GAP) + _GAP, size + _TEXT + _GAP
  page = Image.new("RGB", (width, max(len(shown), 1) * height + _GAP), "white")
  draw = ImageDraw.Draw(page)
  for k, place in enumerate(shown):
    image, mask = pixels.image[k], pixels.region[k] > 0
    panels = [image, outline(image // 2, mask)]
    panels[1][mask] = image[mask]
    if maps is not None:
      low, high = float(np.percentile(maps, 1)), float(maps.max())
      panels.append(outline(heat(maps[k], low, high), mask))
    top = _GAP + k * height
    for c, panel in enumerate(panels):
      page.paste(Image.fromarray(panel), (_GAP + c * (size + _GAP), top + _TEXT))
    name = pathlib.PurePosixPath(str(store.index.name[rows[place]]))
    kind = f"{store.index.category[rows[place]]} / {store.index.kind[rows[place]]}"
    draw.text((_GAP, top), f"{score[place]:.3g}   {kind} / {name.name}", fill="black")
  file.parent.mkdir(parents=True, exist_ok=True)
  part = file.with_suffix(f".{os.getpid()}.part")
  try:
    page.save(part, format="PNG")
    part.replace(file)
  finally:
    part.unlink(missing_ok=True)

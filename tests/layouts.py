"""Writes small folders in the official layouts of the real data sets."""

from pathlib import Path

import numpy as np
from imiad_jax.datasets.mtd import split
from PIL import Image

DEFECTS = ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")


def mtd(root: Path, train: int = 4, test: int = 2) -> Path:
  """Writes official good tiles, so many of each split, and one of each defect; returns root."""
  rng = np.random.default_rng(0)
  official = split.listed()
  good = [n for n in official if n.startswith(split.GOOD)]
  names = [n for n in good if official[n] == "train"][:train]
  names += [n for n in good if official[n] == "test"][:test]
  names += [next(n for n in official if n.startswith(f"{folder}/")) for folder in DEFECTS]
  for i, name in enumerate(names):
    path = root / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    tile = rng.integers(90, 140, (30 + i, 20), dtype=np.uint8)
    mask = np.zeros_like(tile)
    if not name.startswith(split.GOOD):
      tile[5:9, 5:9], mask[5:9, 5:9] = 10, 255
    Image.fromarray(tile).save(path, quality=95)
    Image.fromarray(mask).save(path.with_suffix(".png"))
  return root

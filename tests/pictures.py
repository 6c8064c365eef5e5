"""A data set in memory, for tests of the engine and of methods: stripes, some with a blot."""

import numpy as np

from imiad_jax import features
from imiad_jax.data import Pixels
from imiad_jax.types import Index


class Store(features.Store):
  """Holds `tasks` categories of `train` good, `good` and `bad` test images."""

  def __init__(self, tasks: int = 1, train: int = 12, good: int = 5, bad: int = 5):
    n = train + good + bad
    kind = ["good"] * (train + good) + ["blot"] * bad
    self.index = Index(
      name=np.array([f"c{t}/{i:03d}" for t in range(tasks) for i in range(n)]),
      category=np.repeat([f"c{t}" for t in range(tasks)], n),
      split=np.tile(["train"] * train + ["test"] * (good + bad), tasks),
      kind=np.tile(kind, tasks),
      label=np.tile([int(k != "good") for k in kind], tasks),
    )
    self.asked: list[np.ndarray] = []  # the rows of every request for pixels

  def pixels(self, rows: np.ndarray, size: int) -> Pixels:
    self.asked.append(rows)
    images, regions = zip(*(self._draw(int(r), size) for r in rows), strict=True)
    return Pixels(np.stack(images), np.stack(regions))

  def defects(self, rows):
    del rows  # there are regions only

  def features(self, rows, name, stages, size):
    if not stages:
      return {}
    net = features.backbone(name)
    return features.extract(net, stages, self.pixels(rows, size).image)

  def _draw(self, row: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(row)
    x = np.arange(size)
    period = 6 + 3 * int(self.index.category[row][1:])
    stripes = 40 * np.sin(2 * np.pi * (x + rng.uniform(0, period)) / period)
    image = 120 + stripes[None, :, None] + rng.normal(0, 4, (size, size, 3))
    region = np.zeros((size, size), np.int16)
    if self.index.label[row]:
      y, z = rng.integers(size // 8, size // 2, 2)
      region[y : y + size // 4, z : z + size // 4] = 1
      image[region > 0] += [90, -60, 20]
    return np.clip(image, 0, 255).astype(np.uint8), region

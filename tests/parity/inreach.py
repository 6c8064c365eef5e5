"""Writes inreach.npz: the bank and scores of InReaCh as DeclanMcIntosh/InReaCh has it.

Its backbone is replaced by drawn features of twelve images and a query, the two columns that it
exchanges when it gathers channels are exchanged back, and faiss is replaced by a search in full.
Needs torch, scipy, scikit-learn, tqdm and a copy of that repository:
`python tests/parity/inreach.py <repository>`. What its files import beside and does not use here is
replaced by mocks.
"""

import importlib
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

HERE = Path(__file__).parent
IMAGES, CELLS, SIZE, DIM = 12, 6, 24, 8


class Search:
  """A search in full for the nearest row, in the place of faiss."""

  def __init__(self, *_):
    pass

  def add(self, rows: torch.Tensor) -> None:
    """Takes the bank."""
    self.rows = rows

  def search(self, query: torch.Tensor, k: int) -> tuple[np.ndarray, None]:
    """Returns the squared distance of each query to its nearest row."""
    apart = (query[:, None] - self.rows[None]).square().sum(-1)
    return apart.min(1, keepdim=True).values.numpy(), None


class Backbone:
  """The features [13,h,w,c] of one image after another; what the first call gives is not used."""

  def __init__(self, stages: dict[str, np.ndarray]):
    self.stages, self.next = stages, -1

  def __call__(self, _) -> dict[str, torch.Tensor]:
    place = max(self.next, 0)
    self.next += 1
    return {
      k: torch.from_numpy(x[place : place + 1].transpose(0, 3, 1, 2))
      for k, x in self.stages.items()
    }


def features(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Draws features that are alike in all images, one more than another, but for one corner."""
  out = {}
  for stage, cells, channels in (("layer1", CELLS, 5), ("layer2", CELLS // 2, 7)):
    shape = (IMAGES + 1, cells, cells, channels)
    noise = rng.normal(size=shape) * rng.exponential(0.5, (*shape[:3], 1))
    out[stage] = (rng.normal(size=shape[1:]) + noise).astype(np.float32)
  out["layer1"][-1, :2, :2] = rng.normal(size=(2, 2, 5))
  return out


def original(folder: str) -> types.ModuleType:
  """Returns the repository's InReaCh.py as a module."""
  for name in ("cv2", "faiss", "torchsummary", "torchvision", "torchvision.models"):
    sys.modules[name] = MagicMock()
  sys.modules["torchvision.models.feature_extraction"] = MagicMock()
  sys.modules["faiss"].GpuIndexFlatL2 = Search
  torch.Tensor.cuda = lambda self: self
  torch.cuda.memory_reserved, torch.cuda.memory_allocated = lambda _: 1 << 40, lambda _: 0
  sys.path.insert(0, folder)
  return importlib.import_module("InReaCh")


def main() -> None:
  """Writes for images with and without places what is kept, and the map of a query."""
  module = original(sys.argv[1])

  class Mended(module.InReaCh):
    """The original with its pairs in the order that it gathers them in; tells what it keeps."""

    def gen_assoc(self, *given):
      return super().gen_assoc(*given)[:, [1, 0, 2, 3, 4]]

    def precision_recall(self, members):
      for _, image, patch in members:
        self.kept[image, patch] = True

  rng = np.random.default_rng(0)
  stages = features(rng)
  found = dict(stages)
  for placed in (False, True):
    images = rng.integers(0, 50, (IMAGES, SIZE, SIZE, 3), np.uint8)
    images[:, : SIZE // 2] += np.uint8(200 * placed)  # the upper half is lighter, if places count
    kept = Mended.kept = np.zeros((IMAGES, CELLS**2), bool)
    given = {"assoc_depth": 4, "target_embed_dimension": DIM, "pretrain_embed_dimension": DIM}
    theirs = Mended(list(images), Backbone(stages), quite=True, **given)
    assert theirs.pos_embed_flag == placed and 0.1 < kept.mean() < 0.9
    scores, _ = theirs.predict([images[0]], quite=True)
    found |= {f"image{placed:d}": images, f"kept{placed:d}": kept}
    found[f"map{placed:d}"] = scores[0].astype(np.float32)
  np.savez(HERE / "inreach.npz", **found)


if __name__ == "__main__":
  main()

"""Writes spade.npz: scores and maps of the common PyTorch version of SPADE for seeded features.

There is no code by the authors; the version is github.com/byungjae89/SPADE-pytorch at 077c67b. It
needs torch, torchvision, scipy, scikit-learn, matplotlib and tqdm:
`python tests/parity/spade.py <its folder>`. It takes maps of 224 x 224 for granted, and a gallery
of whole hundreds of cells, which those here are.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import seeded
import torch
from stand_in import Backbone

sys.path.insert(0, f"{sys.argv[1]}/src")
import main as original

TRAINED, TESTED, SIZE = 7, 3, 224
SHAPES = {"layer1": (20, 3), "layer2": (10, 4), "layer3": (10, 5), "avgpool": (1, 6)}


class Images(torch.utils.data.Dataset):
  """Normal images of batch 0 to learn, images of batch 1 to test, the first of them normal."""

  def __init__(self, class_name: str, is_train: bool):
    self.number = int(not is_train)

  def __len__(self):
    return TESTED if self.number else TRAINED

  def __getitem__(self, i: int):
    if i >= len(self):
      raise IndexError(i)
    mask = torch.zeros(1, SIZE, SIZE)
    mask[0, :9] = i
    return torch.full((3, SIZE, SIZE), float(self.number)), int(i > 0), mask > 0


def apart(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
  """Returns what torch.pairwise_distance did when it was over the second axis, the channels."""
  return torch.linalg.vector_norm(x - y + 1e-6, dim=1)


def main() -> None:
  """Writes the image scores and a sample of the maps."""
  found = {}

  def scored(labels, scores):
    found.setdefault("image", np.asarray(scores))
    return measure(labels, scores)

  def drawn(images, masks, maps, *_, **__):
    found["map"] = seeded.sample(np.array(maps))

  measure, original.roc_auc_score = original.roc_auc_score, scored
  original.visualize_loc_result = drawn
  original.mvtec.CLASS_NAMES, original.mvtec.MVTecDataset = ["seeded"], Images
  original.wide_resnet50_2 = lambda **_: Backbone(SHAPES, TRAINED)
  torch.pairwise_distance = apart
  with tempfile.TemporaryDirectory() as folder:
    sys.argv[1:] = ["--save_path", folder]
    original.main()
  np.savez(Path(__file__).parent / "spade.npz", **found)


if __name__ == "__main__":
  main()

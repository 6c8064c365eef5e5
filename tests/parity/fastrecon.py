"""Writes fastrecon.npz: the coreset and scores of FastRecon as FzJun26th/FastRecon has it.

Its backbone is replaced by seeded features of two support images and a query, and cv2.resize, which
its script calls, by PyTorch's bilinear interpolation. Needs torch, scipy, scikit-learn, tqdm and a
copy of that repository: `python tests/parity/fastrecon.py <repository>`. What its main.py imports
beside and does not use here is replaced by mocks.
"""

import importlib
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
CELLS, RATIO = 6, 0.1


def original(folder: str) -> types.ModuleType:
  """Returns the repository's main.py as a module."""
  for name in ("cv2", "faiss", "torchvision", "torchvision.utils", "pytorch_lightning"):
    sys.modules[name] = MagicMock()
  sys.modules["pytorch_lightning"].LightningModule = type("Module", (), {})
  sys.path.insert(0, folder)
  module = importlib.import_module("main")
  size = [8 * CELLS, 8 * CELLS]
  module.args = types.SimpleNamespace(coreset_sampling_ratio=RATIO, lambde=2.0, input_size=size)
  module.device = "cpu"
  np.mat, module.max = np.asmatrix, np.max  # as NumPy 1 had them
  module.cv2.resize = lambda x, size: torch.nn.functional.interpolate(
    torch.from_numpy(np.array(x))[None, None], size[::-1], mode="bilinear", align_corners=False
  )[0, 0].numpy()
  module.cv2.cvtColor = lambda x, code: x
  return module


def features(names: list[str]) -> list[torch.Tensor]:
  """Returns the seeded layer2 and layer3 of images."""
  shapes = {"layer2": (7, CELLS, CELLS), "layer3": (9, CELLS // 2, CELLS // 2)}
  return [
    torch.from_numpy(np.stack([seeded.tensor(name + layer, (1, *shape))[0] for name in names]))
    for layer, shape in shapes.items()
  ]


def main() -> None:
  """Writes the coreset's rows of two images, and the map and the score of a third."""
  module = original(sys.argv[1])

  class Names(list):
    """Names of images, in the place of images."""

    def to(self, device: str) -> "Names":
      return self

  class Recon(module.STPM):
    """The original on seeded features."""

    def __init__(self):
      self.init_results_list()
      self.sample_path = ""

    def __call__(self, names: list[str]) -> list[torch.Tensor]:
      return features(names)

    def inv_normalize(self, names: list[str]) -> torch.Tensor:
      return torch.zeros(1, 3, 1, 1)

    def save_anomaly_map(self, *_) -> None:
      pass

  recon = Recon()
  with torch.inference_mode():
    recon.training_step((["a", "b"], None, None), 0)
    recon.training_epoch_end(None)
    recon.test_step((Names(["query"]), ["query"], ["good"]), 0)
  size = 8 * CELLS
  found = {
    "coreset": recon.Sc.numpy(),
    "mean": recon.mu.T.numpy(),
    "map": np.array(recon.pred_list_px_lvl, np.float32).reshape(size, size),
    "score": np.float32(recon.pred_list_img_lvl[0]),
  }
  np.savez(HERE / "fastrecon.npz", **found)


if __name__ == "__main__":
  main()

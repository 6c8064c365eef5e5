"""Writes padim.npz: Gaussians, distances and maps of the common PyTorch version of PaDiM.

There is no code by the authors; this is the version's copy in github.com/M-3LAB/open-iad at
05044fe, arch/padim.py. It needs torch, torchvision and scipy:
`python tests/parity/padim.py <its folder>`. The maps are taken before it scales them to [0, 1].
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import seeded
import torch
from stand_in import Backbone

DIM, IMAGES, SIZE = 10, 6, 32
SHAPES = {"layer1": (8, 4), "layer2": (4, 6), "layer3": (2, 8)}  # side, channels


def original(folder: str) -> ModuleType:
  """Imports their file without what it needs for runs of theirs."""
  for name in ("arch", "arch.base", "tools", "tools.utils"):
    sys.modules[name] = ModuleType(name)
  sys.modules["arch.base"].ModelBase = object
  spec = importlib.util.spec_from_file_location("original", f"{folder}/arch/padim.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def main() -> None:
  """Writes what two batches leave, and what a third one scores."""
  module = original(sys.argv[1])
  model = module.PaDim.__new__(module.PaDim)
  model.net, model.device, model.features = Backbone(SHAPES, IMAGES), "cpu", []
  model.config = {"num_epochs": 1}
  channels = np.random.default_rng(0).permutation(sum(c for _, c in SHAPES.values()))[:DIM]
  model.idx = torch.from_numpy(channels)
  model.get_layer_features()
  model.img_gt_list, model.pixel_gt_list, model.img_path_list = [], [], []
  model.clear_all_list = lambda: None
  none = torch.zeros(IMAGES, 1, SIZE, SIZE)
  batches = [
    {"img": model.net.batch(i, SIZE), "mask": none, "label": none, "img_src": ""} for i in range(3)
  ]
  blurred, blur = [], module.gaussian_filter

  def kept(*args, **kw):
    blurred.append(blur(*args, **kw))
    return blurred[-1]

  module.gaussian_filter = kept
  model.train_model(batches[:2], 0)
  model.prediction(batches[2:], 0)
  mean, covariance = model.train_outputs
  maps = np.array(blurred)
  np.savez(
    Path(__file__).parent / "padim.npz",
    channels=channels,
    mean=seeded.sample(mean.T),
    covariance=seeded.sample(covariance.transpose(2, 0, 1)),
    image=maps.max((1, 2)),
    map=seeded.sample(maps),
  )


if __name__ == "__main__":
  main()

"""Writes stpm.npz: the map, the loss and two steps of STPM as hcw-00/STPM_anomaly_detection has it.

The weights of its ResNet-18s are random, made alike by seeded.py on both sides, batch norm's
statistics too. Needs torch, torchvision and a copy of that repository:
`python tests/parity/stpm.py <repository>`. What its train.py imports beside and does not use here
is replaced by mocks.
"""

import importlib.util
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import seeded
import torch
import torchvision

HERE = Path(__file__).parent
MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")
SIZE = 64


def original(folder: str) -> types.ModuleType:
  """Returns the repository's train.py as a module."""
  for name in ("cv2", "PIL", "sklearn", "sklearn.metrics", "pytorch_lightning"):
    sys.modules[name] = MagicMock()
  hparams = {"save_hyperparameters": lambda *_: None}
  sys.modules["pytorch_lightning"].LightningModule = type("Module", (torch.nn.Module,), hparams)
  spec = importlib.util.spec_from_file_location("original", Path(folder) / "train.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.transforms = MagicMock()
  given = {"lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4}
  module.args = types.SimpleNamespace(amap_mode="mul", load_size=SIZE, input_size=SIZE, **given)
  return module


def network(who: str) -> torch.nn.Module:
  """Returns a ResNet-18 with the seeded weights of `who`."""
  model = torchvision.models.get_model("resnet18", weights=None)
  shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  state = {
    name: torch.from_numpy(seeded.tensor(who + name, shape)) for name, shape in shapes.items()
  }
  model.load_state_dict(state)
  return model


def main() -> None:
  """Writes the map of an image, the losses of two steps and all that they moved."""
  module = original(sys.argv[1])
  module.resnet18 = lambda pretrained: network("teacher." if pretrained else "student.")
  stpm = module.STPM(None)
  images = np.concatenate(seeded.images(((SIZE, SIZE), (SIZE, SIZE), (SIZE, SIZE))))
  x = torch.from_numpy((images - MEAN) / STD).permute(0, 3, 1, 2)

  found = {}
  stpm.model_s.eval()
  with torch.inference_mode():
    total, _ = stpm.cal_anomaly_map(*reversed(stpm(x[:1])), out_size=SIZE)
  found["map"] = total.astype(np.float32)

  stpm.model_s.train()
  optimiser = stpm.configure_optimizers()
  for step in range(2):  # the second one shows the momentum
    teacher, student = stpm(x)
    loss = stpm.cal_loss(student, teacher)
    found[f"loss{step}"] = loss.detach().numpy()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
  for name, value in stpm.model_s.state_dict().items():
    if not name.startswith(("layer4", "fc")) and not name.endswith("num_batches_tracked"):
      if value.ndim == 4:
        value = value.permute(2, 3, 1, 0)
      found[name] = seeded.sample(value.numpy())
  np.savez(HERE / "stpm.npz", **found)


if __name__ == "__main__":
  main()

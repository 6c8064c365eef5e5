"""Writes dra.npz: the heads' scores, losses and gradients of Choubo/DRA.

The weights of its network are random, made alike by seeded.py on both sides; its ResNet-18 uses
batch norm's statistics as they are. Needs torch, torchvision and a copy of that repository:
`python tests/parity/dra.py <repository>`. What its train.py imports beside and does not use here is
replaced by mocks, and so is the GPU.
"""

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
SIZE, REFERENCES = 64, 2
LABELS = (0, 1, 2, 0)
CONVS = ("seen_head.scoring", "pseudo_head.scoring", "composite_head.conv.0")


def original(folder: str) -> tuple[type, torch.nn.Module, torch.nn.Module]:
  """Returns the trainer's class, the network with seeded weights, and the loss."""
  sys.path.insert(0, folder)
  mocks = ("sklearn", "sklearn.metrics", "matplotlib", "matplotlib.pyplot", "dataloaders")
  for name in (*mocks, "dataloaders.dataloader", "tqdm"):
    sys.modules[name] = MagicMock()
  torchvision.models.resnet18 = lambda pretrained: torchvision.models.get_model("resnet18")
  torch.Tensor.cuda = lambda self: self
  import train
  from modeling.layers.deviation_loss import DeviationLoss

  args = {"n_scales": 2, "img_size": SIZE, "topk": 0.1, "nRef": REFERENCES, "total_heads": 4}
  net = train.DRA(types.SimpleNamespace(**args), backbone="resnet18")
  shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
  net.load_state_dict({k: torch.from_numpy(seeded.tensor(k, v)) for k, v in shapes.items()})
  return train.Trainer, net, DeviationLoss()


def main() -> None:
  """Writes all of it for four images and two references."""
  trainer, net, criterion = original(sys.argv[1])
  drawn = np.random.default_rng(1).standard_normal(5000, np.float32)
  torch.normal = lambda **_: torch.from_numpy(drawn)
  image = np.concatenate(seeded.images(((SIZE, SIZE),) * (REFERENCES + len(LABELS))))
  x = torch.from_numpy((image - MEAN) / STD).permute(0, 3, 1, 2)
  label = torch.tensor(LABELS)
  found = {}
  net.eval()
  with torch.inference_mode():
    found["tested"] = torch.stack(net(x, label)).numpy()

  net.train()
  net.feature_extractor.eval()
  outputs = net(x, label)
  targets = trainer.generate_target(None, label)
  parts = [criterion(o, t.float()) for o, t in zip(outputs, targets, strict=True)]
  sum(parts).backward()
  found["losses"] = torch.stack(parts).detach().numpy()
  weights = dict(net.named_parameters())
  for conv in CONVS:
    gradient = weights[f"{conv}.weight"].grad.permute(2, 3, 1, 0).numpy()
    found[f"gradient/{conv}"] = seeded.sample(gradient)
  np.savez(HERE / "dra.npz", **found)


if __name__ == "__main__":
  main()

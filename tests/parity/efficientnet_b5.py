"""Writes efficientnet_b5.npz: activations of the PyTorch original, efficientnet_pytorch 0.7.1.

The weights are random, made alike by seeded.py on both sides, batch norm's statistics too. Needs
torch and lukemelas/EfficientNet-PyTorch: `python tests/parity/efficientnet_b5.py <its folder>`.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
SHAPE = (76, 116)  # meets odd grids further in
MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")
ENDS = {2: "stem", 7: "layer1", 12: "layer2", 26: "layer3", 35: "block35", 38: "layer4"}


def original(folder: str) -> torch.nn.Module:
  """Returns the reference model with seeded weights, padding as from_pretrained has it."""
  sys.path.append(folder)
  from efficientnet_pytorch import EfficientNet

  model = EfficientNet.from_name("efficientnet-b5")
  shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  state = {name: torch.from_numpy(seeded.tensor(name, shape)) for name, shape in shapes.items()}
  model.load_state_dict(state)
  return model.eval()


def stages(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the outputs of the blocks in ENDS, the embedding and the logits."""
  x = torch.from_numpy((image - MEAN) / STD).permute(0, 3, 1, 2)
  x = model._swish(model._bn0(model._conv_stem(x)))
  ends = {}
  for number, block in enumerate(model._blocks):
    x = block(x)
    if number in ENDS:
      ends[ENDS[number]] = x.permute(0, 2, 3, 1)
  x = model._swish(model._bn1(model._conv_head(x)))
  ends["embedding"] = model._avg_pooling(x).flatten(1)
  ends["logits"] = model._fc(ends["embedding"])
  return {name: value.numpy() for name, value in ends.items()}


def main() -> None:
  """Writes samples of all stages and their shapes, and the number of parameters."""
  found = {}
  (image,) = seeded.images((SHAPE,))
  with torch.inference_mode():
    model = original(sys.argv[1])
    found["parameters"] = sum(p.numel() for p in model.parameters())
    for stage, value in stages(model, image).items():
      found[stage], found[f"{stage}/shape"] = seeded.sample(value), np.array(value.shape)
  np.savez(HERE / "efficientnet_b5.npz", **found)


if __name__ == "__main__":
  main()

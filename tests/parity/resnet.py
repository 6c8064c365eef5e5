"""Writes resnet.npz: activations of the PyTorch originals, torchvision's ResNets, 0.28.0.

The weights are random, made alike by seeded.py on both sides, batch norm's statistics too. Needs
torch and torchvision: `python tests/parity/resnet.py`.
"""

from pathlib import Path

import numpy as np
import seeded
import torch
import torchvision

HERE = Path(__file__).parent
MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")


def original(variant: str) -> torch.nn.Module:
  """Returns the reference model with seeded weights."""
  model = torchvision.models.get_model(variant, weights=None)
  shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  state = {name: torch.from_numpy(seeded.tensor(name, shape)) for name, shape in shapes.items()}
  model.load_state_dict(state)
  return model.eval()


def stages(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the stem's and the four layers' outputs, the embedding and the logits."""
  x = torch.from_numpy((image - MEAN) / STD).permute(0, 3, 1, 2)
  ends = {"stem": model.relu(model.bn1(model.conv1(x)))}
  x = model.maxpool(ends["stem"])
  for name in ("layer1", "layer2", "layer3", "layer4"):
    x = ends[name] = getattr(model, name)(x)
  ends = {name: value.permute(0, 2, 3, 1) for name, value in ends.items()}
  ends["embedding"] = model.avgpool(x).flatten(1)
  ends["logits"] = model.fc(ends["embedding"])
  return {name: value.numpy() for name, value in ends.items()}


def main() -> None:
  """Writes samples of all stages under "<variant>/<image>/<stage>"."""
  found = {}
  with torch.inference_mode():
    for variant in ("resnet18", "resnet34", "resnet50", "wide_resnet50_2"):
      model = original(variant)
      for i, image in enumerate(seeded.images()):
        for stage, value in stages(model, image).items():
          found[f"{variant}/{i}/{stage}"] = seeded.sample(value)
  np.savez(HERE / "resnet.npz", **found)


if __name__ == "__main__":
  main()

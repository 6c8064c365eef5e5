"""Writes vgg.npz: activations of the PyTorch original, torchvision's vgg16, 0.28.0.

The weights are random, made alike by seeded.py on both sides. Needs torch and torchvision:
`python tests/parity/vgg.py`.
"""

from pathlib import Path

import numpy as np
import seeded
import torch
import torchvision

HERE = Path(__file__).parent
SHAPE = (76, 116)  # the last two grids are odd
MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")
ENDS = {8: "stem", 15: "layer1", 22: "layer2", 29: "layer3", 30: "layer4"}


def main() -> None:
  """Writes samples and shapes of all stages, and the shapes of the file's tensors."""
  model = torchvision.models.vgg16(weights=None).eval()
  shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  found = {f"file/{name}": np.array(shape) for name, shape in shapes.items()}
  convolutions = {n.removeprefix("features."): s for n, s in shapes.items() if "features" in n}
  model.features.load_state_dict(
    {n: torch.from_numpy(seeded.tensor(f"features.{n}", s)) for n, s in convolutions.items()}
  )
  (image,) = seeded.images((SHAPE,))
  x = torch.from_numpy((image - MEAN) / STD).permute(0, 3, 1, 2)
  with torch.inference_mode():
    for number, layer in enumerate(model.features):
      x = layer(x)
      if number in ENDS:
        value = x.permute(0, 2, 3, 1).numpy()
        found[ENDS[number]] = seeded.sample(value)
        found[f"{ENDS[number]}/shape"] = np.array(value.shape)
  np.savez(HERE / "vgg.npz", **found)


if __name__ == "__main__":
  main()

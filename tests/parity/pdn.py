"""Writes pdn.npz: outputs of the original teachers of github.com/nelson1425/EfficientAD, fcab514.

The weights are random, made alike by seeded.py on both sides. Needs torch and torchvision:
`python tests/parity/pdn.py <folder of that repository>`.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")


def main() -> None:
  """Writes samples of the one stage under "<variant>/<image>/teacher"."""
  sys.path.insert(0, sys.argv[1])
  import common

  found = {}
  for kind in ("small", "medium"):
    model = getattr(common, f"get_pdn_{kind}")(384)
    names = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({n: torch.from_numpy(seeded.tensor(n, s)) for n, s in names.items()})
    for i, image in enumerate(seeded.images()):
      x = torch.from_numpy((image - MEAN) / STD).permute(0, 3, 1, 2)
      with torch.inference_mode():
        value = model(x).permute(0, 2, 3, 1).numpy()
      found[f"pdn_{kind}/{i}/teacher"] = seeded.sample(value)
  np.savez(HERE / "pdn.npz", **found)


if __name__ == "__main__":
  main()

"""Writes vit.npz: activations of the PyTorch original, timm 1.0.31's vit_base_patch16_224.

The weights are random, made alike by seeded.py on both sides. Needs torch, torchvision and timm:
`python tests/parity/vit.py`.
"""

import tempfile
from pathlib import Path

import numpy as np
import seeded
import timm
import torch

HERE = Path(__file__).parent


def original() -> torch.nn.Module:
  """Returns the reference model with seeded weights."""
  model = timm.create_model("vit_base_patch16_224", dynamic_img_size=True)
  shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  state = {name: torch.from_numpy(seeded.tensor(name, shape)) for name, shape in shapes.items()}
  model.load_state_dict(state)
  return model.eval()


def stages(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the tokens of five depths as grids, the embedding and the logits."""
  h, w = (n // 16 for n in image.shape[1:3])
  x = model._pos_embed(model.patch_embed(torch.from_numpy(image).permute(0, 3, 1, 2) * 2 - 1))
  ends = {"stem": x}
  for i, block in enumerate(model.blocks, start=1):
    x = block(x)
    if i in (3, 6, 9, 12):
      ends[f"block{i}"] = x
  ends = {name: value[:, 1:].reshape(1, h, w, -1) for name, value in ends.items()}
  ends["embedding"] = model.norm(x)[:, 0]
  ends["logits"] = model.head(ends["embedding"])
  return {name: value.numpy() for name, value in ends.items()}


def main() -> None:
  """Writes samples of all stages under "<variant>/<image>/<stage>"."""
  found = {}
  with torch.inference_mode():
    model = original()
    for i, image in enumerate(seeded.images(seeded.PATCHED)):
      for stage, value in stages(model, image).items():
        found[f"vit_base_patch16_224/{i}/{stage}"] = seeded.sample(value)
  np.savez(HERE / "vit.npz", **found)
  google()


def google() -> None:
  """Checks that timm reads the tests' file in Google's layout as the tests believe it to."""
  model = timm.create_model("vit_base_patch16_224")
  shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
  state = {name: seeded.tensor(name, shape) for name, shape in shapes.items()}
  with tempfile.TemporaryDirectory() as folder:
    np.savez(f"{folder}/vit.npz", **seeded.google(state))
    model.load_pretrained(f"{folder}/vit.npz")
  for name, value in model.state_dict().items():
    np.testing.assert_array_equal(value.numpy(), state[name], name)


if __name__ == "__main__":
  main()

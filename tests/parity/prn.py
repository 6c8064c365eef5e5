"""Writes prn.npz: what parts of the network give, its logits in training and evaluation, losses.

The port is github.com/xcyao00/PRNet, 2cbf856; there is no original. Weights are made alike by
seeded.py on both sides; biases before batch norm, which ours has not, are 0. Given its features, it
needs no backbone and so no timm; needs torch: `python tests/parity/prn.py <folder of PRNet>`.
"""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
SIZE, CHANNELS, GRIDS = 128, (4, 8, 16, 6), (32, 16, 8, 4)
BARE = (  # biases that batch norm takes away
  *("conv1.bias", "conv2.bias", "up4_to_3.1.bias", "up3_to_2.1.bias", "up2_to_1.1.bias"),
  *("up1_to_0.1.bias", "conv_block3.0.bias", "conv_block3.3.bias", "conv_block2.0.bias"),
  *("conv_block2.3.bias", "conv_block1.0.bias", "conv_block1.3.bias"),
)


class Given(torch.nn.Module):
  """A network whose features are its input."""

  def forward(self, features):
    """Returns the features."""
    return features


def nhwc(x: torch.Tensor) -> np.ndarray:
  """Returns a map [b,h,w,c]."""
  return x.detach().permute(0, 2, 3, 1).numpy()


def original(prnet: str, channels: tuple[int, ...], grids: tuple[int, ...], blocks: int):
  """Returns the port's network for features of these shapes, and its modules.

  At each scale it has so many blocks of attention, not three.
  """
  sys.modules["timm"] = SimpleNamespace(create_model=lambda *_, **__: Given())
  sys.path.insert(0, prnet)
  import losses
  import models.prnet as port
  import utils

  # The port iterates over a number here.
  port.dryrun_find_featuremap_dims = lambda *_: [
    {"num_features": c, "resolution": (g, g)} for c, g in zip(channels, grids, strict=True)
  ]
  port.MultiSizeAttentionModule = partial(port.MultiSizeAttentionModule, num_layers=blocks)
  size = (4 * grids[0],) * 2
  return port.PRNet("", 1, size, device=torch.device("cpu")), losses, utils


def main(prnet: str) -> None:
  """Writes everything in one file."""
  torch.manual_seed(0)
  model, losses, utils = original(prnet, CHANNELS, GRIDS, blocks=1)
  state = {}
  for name, value in model.state_dict().items():
    made = torch.from_numpy(seeded.tensor(name, tuple(value.shape)))
    state[name] = torch.zeros_like(value) if name.endswith(BARE) else made
  model.load_state_dict(state)
  features = [torch.randn(2, c, g, g) for c, g in zip(CHANNELS, GRIDS, strict=True)]
  prototypes = [torch.randn(3, *x.shape[1:]) for x in features[:-1]]
  mask = torch.zeros(2, 1, SIZE, SIZE)
  mask[0, 0, 20:60, 40:48] = 1
  found = {f"features/{i}": nhwc(x) for i, x in enumerate(features)}
  found |= {f"prototypes/{i}": nhwc(x) for i, x in enumerate(prototypes)}
  with torch.no_grad():
    nearest = utils.get_prototype_features(features[:-1], prototypes)
    for i, (x, bank) in enumerate(zip(nearest, prototypes, strict=True)):
      found[f"nearest/{i}"] = np.array([(bank == m).all((1, 2, 3)).int().argmax() for m in x])
    fused = model.ms_fuser1(*features[:-1])
    found |= {f"fused/{i}": seeded.sample(nhwc(x)) for i, x in enumerate(fused)}
    wide = torch.cat([features[2]] * 2, dim=1)
    attended = model.eval().attn_module.layer3_msa[0](wide)
    found["attended"] = seeded.sample(nhwc(attended))
    found["logit/evaluated"] = seeded.sample(model(features, prototypes)[:, 0].numpy())
  logit = model.train()(features, prototypes)
  score = torch.sigmoid(logit)
  smooth = losses.SmoothL1Loss()(score, mask)
  focal = losses.FocalLoss(alpha=0.5, gamma=4)(torch.cat([1 - score, score], dim=1), mask)
  (smooth + 5 * focal).backward()
  found["logit/trained"] = seeded.sample(logit[:, 0].detach().numpy())
  found["losses"] = np.array([smooth.item(), focal.item()])
  for name, value in model.named_parameters():
    if not name.endswith(BARE):
      found[f"gradient/{name}"] = seeded.sample(value.grad.numpy())[::4]
  np.savez_compressed(HERE / "prn.npz", **found)


if __name__ == "__main__":
  main(*sys.argv[1:])

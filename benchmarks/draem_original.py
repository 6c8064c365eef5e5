"""Trains the authors' DRAEM (2dbf673) on what our small DRAEM has: data, textures, widths, steps.

  python benchmarks/draem_original.py --category=bottle --data=bottle.npz
  python benchmarks/draem_original.py --original=<folder> --data=bottle.npz

The first writes images, textures and hyperparameters. The second, in an environment with torch,
imgaug and "numpy<2", needs a checkout of github.com/VitjanZ/DRAEM and prints losses and AUROC as it
trains.
"""

from typing import Any

import numpy as np
import original

SEED = 0


def export(category: str) -> dict[str, np.ndarray]:
  """Returns images of a category [n,h,w,3] in BGR, their defects, textures, hyperparameters."""
  import jax

  from imiad_jax import plugins, textures
  from imiad_jax.methods import draem

  kw = plugins.resolve("draem", draem.Model, draem.SMALL)
  size = kw["size"]
  stack = textures.stack(jax.random.key(3), kw["sources"], size, size)
  names = ("size", "width", "marks", "epochs", "batch", "lr", "window")
  out = {k: np.asarray(kw[k]) for k in names} | {"textures": np.asarray(stack)}
  for split, pixels in original.pictures(category, size):
    out |= {split: pixels.image, f"{split}_region": pixels.region > 0}
  return {k: x[..., ::-1] if x.ndim == 4 else x for k, x in out.items()}


def dataset(data: dict[str, np.ndarray]) -> Any:
  """Returns the authors' data set, of arrays in place of files and without turned images."""
  for name, kind in (("bool", bool), ("int", int), ("float", float)):
    if name not in vars(np):
      setattr(np, name, kind)  # imgaug is older than their removal
  import data_loader  # pyright: ignore[reportMissingImports]

  class Arrays(data_loader.MVTecDRAEMTrainDataset):
    def transform_image(self, image: np.ndarray, texture: np.ndarray) -> tuple[np.ndarray, ...]:
      image = image.astype(np.float32) / 255
      *made, told = self.augment_image(image, texture)
      return *(np.moveaxis(x, -1, 0) for x in (image, *made)), told

  data_loader.cv2.imread, data_loader.cv2.resize = (lambda x: x), (lambda x, dsize: x)
  found = Arrays("", "", resize_shape=[data["size"].item()] * 2)
  found.image_paths, found.anomaly_source_paths = list(data["train"]), list(data["textures"])
  return found


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains as the authors' script does, and prints how far it is after every ten epochs."""
  kw = {k: x.item() for k, x in data.items() if not x.ndim}
  images = dataset(data)
  import imgaug  # pyright: ignore[reportMissingImports]
  import torch  # pyright: ignore[reportMissingImports]
  from loss import SSIM, FocalLoss  # pyright: ignore[reportMissingImports]
  from model_unet import (  # pyright: ignore[reportMissingImports]
    DiscriminativeSubNetwork,
    ReconstructiveSubNetwork,
  )

  torch.Tensor.cuda = lambda tensor: tensor  # the authors' SSIM asks for a GPU
  for seed in (torch.manual_seed, np.random.seed, imgaug.seed):
    seed(SEED)

  def begin(module: Any) -> None:
    if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d)):
      norm = isinstance(module, torch.nn.BatchNorm2d)
      module.weight.data.normal_(float(norm), 0.02)
      if norm:
        module.bias.data.zero_()

  restore = ReconstructiveSubNetwork(base_width=kw["width"]).apply(begin)
  segment = DiscriminativeSubNetwork(in_channels=6, out_channels=2, base_channels=kw["marks"])
  segment.apply(begin)
  optimiser = torch.optim.Adam([*restore.parameters(), *segment.parameters()], lr=kw["lr"])
  steps = [kw["epochs"] * 0.8, kw["epochs"] * 0.9]
  schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, steps, gamma=0.2)
  square, structure, focal = torch.nn.MSELoss(), SSIM(), FocalLoss()
  loader = torch.utils.data.DataLoader(images, batch_size=kw["batch"], shuffle=True)

  def both(image: Any) -> tuple[Any, Any]:
    restored = restore(image)
    return restored, torch.softmax(segment(torch.cat((restored, image), 1)), 1)

  for epoch in range(1, kw["epochs"] + 1):
    for net in (restore, segment):
      net.train()
    for batch in loader:
      clean, pasted = batch["image"], batch["augmented_image"]
      restored, found = both(pasted)
      parts = (
        square(restored, clean),
        structure(restored, clean),
        focal(found, batch["anomaly_mask"]),
      )
      optimiser.zero_grad()
      torch.stack(parts).sum().backward()
      optimiser.step()
    schedule.step()
    if epoch % 10 == 0:
      for net in (restore, segment):
        net.eval()
      test = torch.tensor(np.moveaxis(data["test"], -1, 1) / np.float32(255))
      with torch.no_grad():
        maps = torch.cat([both(x)[1][:, 1] for x in test.split(kw["batch"])])
      said = [f"{float(p.detach()):.4f}" for p in parts]
      found = auroc(maps, data["test_region"], kw["window"])
      print(epoch, "l2, ssim, focal", *said, found, flush=True)


def auroc(maps: Any, region: np.ndarray, window: int) -> str:
  """Returns what to print of maps [n,h,w]; an image's score is the largest mean over a window."""
  import torch  # pyright: ignore[reportMissingImports]

  means = torch.nn.functional.avg_pool2d(maps[:, None], window, stride=1, padding=window // 2)
  return original.auroc(means.flatten(1).amax(1).numpy(), maps.numpy(), region)


if __name__ == "__main__":
  original.run("The authors' DRAEM with our small budget.", export, learn)

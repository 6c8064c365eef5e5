"""Trains the port of PRN (xcyao00, 2cbf856) on what our small PRN has, told of ten anomalies.

  python benchmarks/prn_original.py --category=bottle --data=bottle.npz
  python benchmarks/prn_original.py --original=<folder> --data=bottle.npz

The first writes features of normal images and of the anomalous ones that ours would draw, those of
each pass, with their masks, and hyperparameters. The second, in an environment with torch and
scikit-learn, needs a checkout of github.com/xcyao00/PRNet, whose network, losses and k-means are
used. It asks for a fourth stage, which our small one has not. Weight decay is AdamW's, as ours is,
not Adam's, as the port's. It prints the image AUROC, pixel AUROC and pixel AP after every sixth
pass.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import original

SEED = 0
STAGES = ("layer1", "layer2", "layer3", "layer4")
CHANNELS = (28, 56, 112, 320)  # those of ours with zeros, as the port wants multiples


def export(category: str) -> dict[str, np.ndarray]:
  """Returns features [n,c,h',w'] and masks [n,h,w] of a category, and hyperparameters."""
  import jax
  import jax.numpy as jnp

  from imiad_jax import cache, data, features, plugins, training
  from imiad_jax.heads import defects
  from imiad_jax.methods import prn
  from imiad_jax.settings import fully_supervised

  kw = plugins.resolve("prn", prn.Model, {"backbone": "efficientnet_lite0"} | prn.SMALL)
  size, net = kw["size"], features.backbone(kw["backbone"])
  index, source = data.open("synthetic", None, cache.folder("prepared"))
  (task,) = fully_supervised.tasks(index, (category,), SEED)
  out = {k: np.asarray(x) for k, x in kw.items() if isinstance(x, int | float)}

  def add(name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for i, x in enumerate(features.extract(net, STAGES, image).values()):
      x = np.pad(x, [(0, 0)] * 3 + [(0, CHANNELS[i] - x.shape[-1])])
      out[f"{name}{i}"] = np.moveaxis(x, -1, 1)
    out[f"{name}_mask"] = mask

  pixels = data.load(index, source, task.tests[category], size)
  add("test", pixels.image, pixels.region > 0)
  pixels = data.load(index, source, task.train, size)
  normal = task.label == 0
  add("train", pixels.image[normal], pixels.region[normal] > 0)
  batch = training.untold({"image": jnp.asarray(pixels.image), "features": {}})
  batch = batch._replace(label=jnp.asarray(task.label), region=jnp.asarray(pixels.region))
  memory = defects.remember(defects.begin(kw["kept"], size, size), batch)
  batch = jax.tree.map(lambda x: x[normal] if x.ndim else x, batch)
  texture_key, *keys = jax.random.split(jax.random.key(SEED), kw["epochs"])
  stack = defects.cloudy(texture_key, kw["sources"], size, size)
  half = sum(normal) // 2
  drawn = []
  for real_key, made_key in map(jax.random.split, keys):
    drawn += [defects.draw(real_key, memory, batch, half)]
    drawn += [defects.textured(made_key, stack, batch, half)]
  image = np.concatenate([np.round(255 * x.image).astype(np.uint8) for x in drawn])
  add("drawn", image, np.concatenate([x.mask for x in drawn]))
  return out


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains as the port's script does: each pass has normal images and as many drawn ones."""
  sys.path.insert(1, str(Path(__file__).parents[1] / "tests" / "parity"))
  import prn as parity  # pyright: ignore[reportMissingImports]
  import torch  # pyright: ignore[reportMissingImports]
  from sklearn.cluster import KMeans
  from sklearn.metrics import average_precision_score

  kw = {k: x.item() for k, x in data.items() if not x.ndim}
  shapes = [data[f"test{i}"].shape for i in range(len(STAGES))]
  torch.manual_seed(SEED)
  torch.set_flush_denormal(True)
  grids = tuple(s[2] for s in shapes)
  net, losses, _ = parity.original(sys.path[0], CHANNELS, grids, kw["blocks"])
  smooth, focal = losses.SmoothL1Loss(), losses.FocalLoss(alpha=0.5, gamma=4)
  count = int(kw["ratio"] * len(data["train_mask"]))
  prototypes = []
  for i, shape in enumerate(shapes[:-1]):
    means = KMeans(count, random_state=0).fit(data[f"train{i}"].reshape(-1, np.prod(shape[1:])))
    prototypes.append(torch.from_numpy(means.cluster_centers_.reshape(count, *shape[1:])))
  optimiser = torch.optim.AdamW(net.parameters(), lr=kw["lr"], weight_decay=kw["weight_decay"])
  stages = range(len(STAGES))

  def given(name: str, part: slice) -> tuple[list[Any], Any]:
    mask = torch.from_numpy(data[f"{name}_mask"][part].astype(np.float32))[:, None]
    return [torch.from_numpy(data[f"{name}{i}"][part]) for i in stages], mask

  def tested() -> str:
    maps, _ = given("test", slice(None))
    with torch.no_grad():
      found = torch.sigmoid(net.eval()(maps, prototypes))[:, 0]
    score = found.flatten(1).topk(kw["top"])[0].mean(1).numpy()
    found, region = found.numpy(), data["test_mask"]
    precision = average_precision_score(region.ravel(), found.ravel())
    return f"{original.auroc(score, found, region)}, pixel AP {precision:.3f}"

  normal, mask = given("train", slice(None))
  for i in range(passes := len(data["drawn_mask"]) // len(mask)):
    more, marks = given("drawn", slice(i * len(mask), (i + 1) * len(mask)))
    maps = [torch.cat(pair) for pair in zip(normal, more, strict=True)]
    marks = torch.cat([mask, marks])
    net.train()
    for rows in torch.randperm(len(marks)).split(2 * kw["batch"]):
      score = torch.sigmoid(net([x[rows] for x in maps], prototypes))
      pair = torch.cat([1 - score, score], dim=1)
      loss = smooth(score, marks[rows]) + kw["balance"] * focal(pair, marks[rows])
      optimiser.zero_grad()
      loss.backward()
      optimiser.step()
    if (passes - i - 1) % 6 == 0:
      print(i + 1, tested(), flush=True)


if __name__ == "__main__":
  original.run("The port of PRN with our small budget.", export, learn)

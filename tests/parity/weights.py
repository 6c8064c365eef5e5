"""Writes legacy.pth, zip.pth and zip4.pth, the forms in which torch.save has written files.

Needs torch: `python tests/parity/weights.py`.
"""

from pathlib import Path

import torch

HERE = Path(__file__).parent


def main() -> None:
  """Writes one state dict, with a strided tensor and all types, in three forms."""
  state = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)).state_dict()
  for name in ("0.weight", "0.bias"):
    state[name] = torch.arange(state[name].numel(), dtype=torch.float32).reshape(state[name].shape)
  state["strided"] = torch.arange(24, dtype=torch.float32).reshape(4, 6).t()[1:, ::2]
  for name in ("float16", "bfloat16", "float64", "int64", "uint8"):
    state[name] = torch.arange(5).to(getattr(torch, name))
  state["parameter"] = torch.nn.Parameter(torch.ones(2))
  torch.save(state, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
  torch.save({"state_dict": state, "epoch": 3}, HERE / "zip.pth")
  torch.save({"model": state}, HERE / "zip4.pth", pickle_protocol=4)


if __name__ == "__main__":
  main()

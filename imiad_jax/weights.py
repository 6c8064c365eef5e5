"""Reads weight files (PyTorch's two forms, safetensors, npz) without running anything in them.

Arrays are read-only views of the bytes read: no claim in a file makes memory be allocated for it.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from imiad_jax import pickles
from imiad_jax.errors import UserError

_SAFETENSORS = {
  "BF16": np.dtype(jnp.bfloat16),
  "BOOL": np.dtype("bool"),
  "F16": np.dtype("float16"),
  "F32": np.dtype("float32"),
  "F64": np.dtype("float64"),
  "I16": np.dtype("int16"),
  "I32": np.dtype("int32"),
  "I64": np.dtype("int64"),
  "I8": np.dtype("int8"),
  "U8": np.dtype("uint8"),
}

_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


def sha256(path: str | Path) -> str:
  """Returns the sha256 of a file in hexadecimal; raises UserError if it cannot be opened."""
  try:
    with open(path, "rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise UserError(f"{path} cannot be opened: {error.strerror}. Check the path.") from error


def read(path: str | Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a weight file by name, in the file's types and order, read-only.

  The form is told from the content: torch.save's legacy or zip form (a state dict, or a checkpoint
  with one below "state_dict" or "model"), safetensors, or npz. Raises UserError for anything else,
  for what is cut short or contradicts itself, and for a pickle that asks for other globals.
  """
  try:
    data = Path(path).read_bytes()
    if data.startswith(b"PK"):
      return _read_zip(data)
    if data[8:9] == b"{":
      return _read_safetensors(data)
    return _read_legacy(data)
  except OSError as error:
    raise UserError(f"{path} cannot be opened: {error.strerror}. Check the path.") from error
  except Exception as error:  # the file is anyone's: whatever goes wrong with it is its fault
    reason = str(error) or type(error).__name__
    raise UserError(
      f"{path} cannot be read as weights: {reason}. Expected a state dict saved by PyTorch, a "
      ".safetensors or an uncompressed .npz file. Download it again; if it is a checkpoint you "
      "trust, load it in PyTorch and save its model.state_dict() alone."
    ) from error


def check(
  state: dict[str, np.ndarray],
  expected: dict[str, tuple[int, ...]],
  optional: Collection[str],
  path: str | Path,
) -> None:
  """Raises UserError unless `state` has exactly the tensors of `expected`, name to shape.

  Those in `optional` may be absent; `num_batches_tracked`, which PyTorch's batch norm counts and
  nothing here needs, may be present. `path` is the file named in the error.
  """
  found = {n: a.shape for n, a in state.items() if n.rpartition(".")[2] != "num_batches_tracked"}
  shared = expected.keys() & found.keys()
  complaints = {
    "missing": [n for n in expected if n not in found and n not in optional],
    "unexpected": [n for n in found if n not in expected],
    "of another shape": [
      f"{n} {found[n]}, not {expected[n]}"
      for n in expected
      if n in shared and found[n] != expected[n]
    ],
  }
  told = [
    f"{len(names)} {what} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
    for what, names in complaints.items()
    if names
  ]
  if told:
    raise UserError(
      f"{path} does not hold this model: of {len(expected)} tensors expected, {', '.join(told)}. "
      "Check that the file belongs to the variant asked for."
    )


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
  stream = io.BytesIO(data)
  storages: dict[str, pickles.Storage] = {}
  if (
    pickles.follow(stream, storages) != _LEGACY_MAGIC
    or pickles.follow(stream, storages) != _LEGACY_VERSION
  ):
    raise ValueError("it begins like no known form")
  if not pickles.follow(stream, storages)["little_endian"]:
    raise ValueError("it was written on a big-endian machine")
  tree, keys = pickles.follow(stream, storages), pickles.follow(stream, storages)
  buffers, start = {}, stream.tell()
  for key in keys:
    storage = storages[key]
    count = int.from_bytes(data[start : start + 8], "little")
    end = start + 8 + count * storage.dtype.itemsize
    buffers[key] = memoryview(data)[start + 8 : end]
    start = end
  return {name: _array(tensor, buffers) for name, tensor in _state_dict(tree).items()}


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
      raise ValueError("it is a compressed archive")
    if any(".." in Path(e.filename).parts for e in entries):
      raise ValueError('an entry of the archive has ".." in its name')
    if sum(e.file_size for e in entries) > len(data):
      raise ValueError("its entries claim more bytes than the file has")
    names = archive.namelist()
    if names and all(n.endswith(".npy") for n in names):
      return {n.removesuffix(".npy"): _npy(archive.read(n)) for n in names}
    roots = [n.removesuffix("data.pkl") for n in names if n.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1:
      raise ValueError("it is an archive, but neither PyTorch's nor NumPy's")
    root = roots[0]
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
      raise ValueError("it was written on a big-endian machine")
    storages: dict[str, pickles.Storage] = {}
    tree = pickles.follow(io.BytesIO(archive.read(f"{root}data.pkl")), storages)
    buffers = {key: memoryview(archive.read(f"{root}data/{key}")) for key in storages}
  return {name: _array(tensor, buffers) for name, tensor in _state_dict(tree).items()}


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
  start = 8 + int.from_bytes(data[:8], "little")
  if start > len(data):
    raise ValueError("its header is cut short")
  header = json.loads(data[8:start])
  header.pop("__metadata__", None)
  state = {}
  for name, entry in header.items():
    dtype, shape = _SAFETENSORS.get(entry["dtype"]), pickles.sizes(entry["shape"])
    begin, end = pickles.sizes(entry["data_offsets"])
    if dtype is None:
      raise ValueError(f"{name} has the unknown type {entry['dtype']}")
    if not begin <= end <= len(data) - start or math.prod(shape) * dtype.itemsize != end - begin:
      raise ValueError(f"the bytes of {name} do not fit its shape {shape} or the file")
    state[name] = np.ndarray(shape, dtype, memoryview(data)[start + begin : start + end])
  return state


def _npy(data: bytes) -> np.ndarray:
  stream = io.BytesIO(data)
  if np.lib.format.read_magic(stream) != (1, 0):
    raise ValueError("it has an array of an unknown version of the npy format")
  shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
  if dtype.hasobject:
    raise ValueError("it has an array of Python objects")
  return np.ndarray(shape, dtype, data, stream.tell(), order="F" if fortran else "C")


def _array(tensor: pickles.Tensor, buffers: dict[str, memoryview]) -> np.ndarray:
  (key, dtype, count), offset, shape, strides = tensor
  buffer = buffers[key]
  if count * dtype.itemsize != len(buffer):
    raise ValueError(f"the storage {key} should have {count} values and has {len(buffer)} bytes")
  if math.prod(shape) > count:
    raise ValueError(f"a tensor claims the shape {shape} with a storage of {count} values")
  steps = tuple(s * dtype.itemsize for s in strides)
  return np.ndarray(shape, dtype, buffer, offset * dtype.itemsize, steps)  # checks the bounds


def _state_dict(tree: Any) -> dict[str, pickles.Tensor]:
  for key in ("state_dict", "model"):
    if isinstance(tree, dict) and isinstance(tree.get(key), dict):
      tree = tree[key]
  if not isinstance(tree, dict):
    raise ValueError("it holds no state dict")
  for name, value in tree.items():
    if not isinstance(name, str) or not isinstance(value, pickles.Tensor):
      raise ValueError(f"its entry {str(name)[:80]!r} is no tensor")
  return tree

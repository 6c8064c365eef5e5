"""Follows the pickle of a PyTorch state dict without running it.

A pickle is a program. Here `pickletools` only takes it apart, and a small interpreter follows the
few opcodes that `torch.save` writes: of all globals it knows tensors, storages and OrderedDict, and
it calls none of them. What it finds wrong is a ValueError, IndexError, KeyError or TypeError.
"""

import pickletools
from io import BytesIO
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_STORAGES = {
  "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
  "torch.BoolStorage": np.dtype("bool"),
  "torch.ByteStorage": np.dtype("uint8"),
  "torch.CharStorage": np.dtype("int8"),
  "torch.DoubleStorage": np.dtype("float64"),
  "torch.FloatStorage": np.dtype("float32"),
  "torch.HalfStorage": np.dtype("float16"),
  "torch.IntStorage": np.dtype("int32"),
  "torch.LongStorage": np.dtype("int64"),
  "torch.ShortStorage": np.dtype("int16"),
}
_DICT, _TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_GLOBALS = {*_STORAGES, _DICT, _TENSOR, _PARAMETER}


class Global(NamedTuple):
  """Something the pickle asks for by module and name."""

  name: str


class Storage(NamedTuple):
  """Values that lie elsewhere in the file, under a key."""

  key: str
  dtype: np.dtype
  count: int


class Tensor(NamedTuple):
  """A view of a storage, claimed and not yet checked."""

  storage: Storage
  offset: int  # this and the strides in elements
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def follow(stream: BytesIO, storages: dict[str, Storage]) -> Any:
  """Returns what one pickle builds, reading to its STOP; notes the storages it refers to."""
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[Any, Any] = {}

  def take(start: int) -> list[Any]:
    if start < 0 or (marks and start < marks[-1]):
      raise ValueError("its pickle takes more than it has put down")
    taken = stack[start:]
    del stack[start:]
    return taken

  for opcode, argument, _ in pickletools.genops(stream):
    value: Any = argument
    match opcode.name:
      case "PROTO" | "FRAME":
        pass
      case "MARK":
        marks.append(len(stack))
      case "STOP":
        return stack.pop()
      case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
        stack.append(value)
      case "BINUNICODE" | "SHORT_BINUNICODE":
        stack.append(value)
      case "NONE" | "NEWTRUE" | "NEWFALSE":
        stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
      case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
        stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[opcode.name])
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        stack.append(tuple(take(len(stack) - int(opcode.name[-1]))))
      case "TUPLE":
        stack.append(tuple(take(marks.pop())))
      case "APPEND" | "APPENDS":
        items = take(len(stack) - 1 if opcode.name == "APPEND" else marks.pop())
        stack[-1].extend(items)
      case "SETITEM" | "SETITEMS":
        items = take(len(stack) - 2 if opcode.name == "SETITEM" else marks.pop())
        _set(stack[-1], items)
      case "BINPUT" | "LONG_BINPUT":
        memo[value] = stack[-1]
      case "MEMOIZE":
        memo[len(memo)] = stack[-1]
      case "BINGET" | "LONG_BINGET":
        stack.append(memo[value])
      case "GLOBAL":
        stack.append(_global(*value.split(" ")))
      case "STACK_GLOBAL":
        stack.append(_global(*take(len(stack) - 2)))
      case "BINPERSID":
        stack.append(_storage(stack.pop(), storages))
      case "REDUCE":
        stack.append(_rebuild(*take(len(stack) - 2)))
      case "BUILD":
        take(len(stack) - 1)  # attributes of an OrderedDict: PyTorch's version numbers
      case other:
        raise ValueError(f"its pickle has the opcode {other}, which no state dict needs")


def sizes(values: Any) -> tuple[int, ...]:
  """Returns a file's claim of sizes as a tuple; raises ValueError unless all are integers >= 0."""
  if not all(type(value) is int and value >= 0 for value in values):
    raise ValueError("it has a size that is no number, or below zero")
  return tuple(values)


def _global(module: str, name: str) -> Global:
  if f"{module}.{name}" not in _GLOBALS:
    raise ValueError(f"its pickle asks for the global {module}.{name}, which was refused")
  return Global(f"{module}.{name}")


def _set(target: Any, items: list[Any]) -> None:
  if not isinstance(target, dict) or len(items) % 2:
    raise ValueError("its pickle sets items of what is no dictionary")
  for key, value in zip(items[::2], items[1::2], strict=True):
    if not isinstance(key, str | int):
      raise ValueError("its pickle has a dictionary whose keys are not plain")
    target[key] = value


def _storage(identity: Any, storages: dict[str, Storage]) -> Storage:
  kind, of, key, _, count, *view = identity
  if kind != "storage" or not isinstance(key, str) or any(v is not None for v in view):
    raise ValueError("its pickle has a persistent id of an unknown kind")
  storage = Storage(key, _STORAGES[of.name], sizes([count])[0])
  if storages.setdefault(key, storage) != storage:
    raise ValueError(f"the storage {key} is described in two ways")
  return storage


def _rebuild(function: Any, arguments: Any) -> Any:
  if function == Global(_DICT) and not arguments:
    return {}
  if function == Global(_TENSOR):
    storage, offset, shape, strides = arguments[:4]
    return Tensor(storage, sizes([offset])[0], sizes(shape), sizes(strides))
  if function == Global(_PARAMETER) and isinstance(arguments[0], Tensor):
    return arguments[0]
  raise ValueError("its pickle calls something in a way no state dict needs")

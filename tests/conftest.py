"""What the tests share."""

import os
import tempfile

import hypothesis
import pytest

# Most of the time of a test is compilation, and what it compiles runs for a moment.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

_COMPILED = pytest.StashKey[tempfile.TemporaryDirectory]()
_GROUP = pytest.StashKey[str]()  # of the test before

# The same cases every time, so that a red test is red for everyone.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_sessionstart(session):
  """Keeps what this process compiles on disk while it runs, so that groups share it."""
  import jax

  session.stash[_COMPILED] = tempfile.TemporaryDirectory(prefix="compiled")
  jax.config.update("jax_compilation_cache_dir", session.stash[_COMPILED].name)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def group(item) -> str:
  """Returns what a test shares its compiled functions by: a method, or its file."""
  file = item.path.stem.removeprefix("test_")
  call = getattr(item, "callspec", None)
  return call.params.get("name", file) if call and file == "conformance" else file


def pytest_collection_modifyitems(items):
  """Puts the tests of a group together, one after the other."""
  place = {}
  for item in items:
    place.setdefault(group(item), len(place))
  items.sort(key=lambda item: place[group(item)])


def pytest_runtest_setup(item):
  """Lets go of what a group compiled when the next one begins, but for what is on disk.

  Each compiled function has memory mappings of its own, of which Linux gives a process 65,530; JAX
  crashes when there are no more.
  """
  import jax

  if item.session.stash.get(_GROUP, group(item)) != group(item):
    jax.clear_caches()
  item.session.stash[_GROUP] = group(item)


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory) -> str:
  """A prepared_dir in which the synthetic data set is built, once for all tests."""
  from imiad_jax.datasets import common

  path = str(tmp_path_factory.mktemp("prepared"))
  common.prepare("synthetic", None, path)
  return path

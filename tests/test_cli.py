"""The command as a user meets it: mistakes cost one sentence, and no accident costs a result."""

import functools
import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imiad_jax import jobs, plans, records, training
from imiad_jax.errors import UserError
from imiad_jax.methods import padim
from imiad_jax.types import Scores

ROOT = Path(__file__).parents[1]
DEFAULT = "--config=configs/default.py"
PADIM = f"{DEFAULT}:method=padim"
HEAVY = ("numpy", "jax", "flax", "tensorflow", "torch", "tensorflow_datasets")

# Runs a module as `python -m` does, and prints which libraries that loaded.
LISTING = f"""
import atexit, runpy, sys
atexit.register(lambda: print("LOADED", *(m for m in {HEAVY} if m in sys.modules)))
sys.argv = ["main", *sys.argv[1:]]
runpy.run_module("imiad_jax.main", run_name="__main__")
"""


def start(*args, code: str | None = None, cache: Path | str = "", cwd=ROOT) -> subprocess.Popen:
  command = [sys.executable, *(("-c", code) if code else ("-m", "imiad_jax.main")), *map(str, args)]
  env = os.environ | ({"IMIAD_CACHE": str(cache)} if cache else {})
  pipe = subprocess.PIPE
  return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=env)


def run(*args, **kwargs) -> subprocess.CompletedProcess:
  process = start(*args, **kwargs)
  out, err = process.communicate(timeout=120)
  return subprocess.CompletedProcess(args, process.returncode, out, err)


# ---- what is loaded ----


def test_help_is_no_mistake_and_loads_nothing():
  done = run("--help", code=LISTING)
  assert (done.returncode, done.stderr) == (0, "")
  assert "--config: A file of configs/" in done.stdout
  assert done.stdout.splitlines()[-1].split() == ["LOADED"]


@pytest.mark.parametrize("module", ["imiad_jax", "imiad_jax.main", "imiad_jax.cli"])
def test_import_loads_nothing(module):
  code = f"import sys, {module}; print(*(m for m in {HEAVY} if m in sys.modules))"
  assert run(code=code).stdout.split() == []


# ---- mistakes ----


def refused(done: subprocess.CompletedProcess, *said: str) -> None:
  """Expects exit code 2 and one line on stderr."""
  assert done.returncode == 2, done.stderr
  assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
  assert done.stdout == ""
  for part in said:
    assert part in done.stderr


@pytest.fixture
def folder(tmp_path) -> Path:
  """A folder with one file, in place of which nothing can be made."""
  (tmp_path / "file").write_text("x = 1\n")
  (tmp_path / "syntax.py").write_text("def get_config(:\n")
  (tmp_path / "library.py").write_text("import no_such_library\n")
  (tmp_path / "number.py").write_text("def get_config():\n  return 1\n")
  (tmp_path / "raises.py").write_text("def get_config():\n  raise ValueError('no such host')\n")
  return tmp_path


@pytest.mark.parametrize(
  ("args", "said"),
  [
    ([], "No config was given. Try: python -m imiad_jax.main --config="),
    (["--config=nowhere.py"], '"nowhere.py" gives no config: no such file'),
    (["--config=configs"], '"configs" gives no config'),
    (["--config={folder}/file"], "no attribute 'get_config'"),
    (["--config={folder}/syntax.py"], "invalid syntax (syntax.py, line 1)"),
    (["--config={folder}/library.py"], "No module named 'no_such_library'"),
    (["--config={folder}/number.py"], "returns no ConfigDict"),
    (["--config={folder}/number.py:padim"], "TypeError: get_config() takes 0 positional"),
    (["--config={folder}/raises.py"], "ValueError: no such host"),
    (["--fast"], "Unknown command line flag 'fast'"),
    (["--confg=configs/default.py"], "Did you mean: config ?"),
    ([DEFAULT, "bottle"], 'Unexpected argument "bottle"'),
    (["--config.seeds=3", DEFAULT], "before a value for --config"),
  ],
)
def test_mistakes_on_the_command_line(folder, args, said):
  refused(run(*(a.format(folder=folder) for a in args)), said)


@pytest.mark.parametrize(
  ("args", "said"),
  [
    ([f"{DEFAULT}:method=padimm"], 'no method "padimm". Did you mean "padim"?'),
    ([f"{DEFAULT}:dataset=synthetik"], 'no dataset "synthetik". Did you mean "synthetic"?'),
    ([f"{DEFAULT}:setting=continuall"], 'no setting "continuall". Did you mean "continual"?'),
    ([f"{DEFAULT}:backbone=resnet17"], 'no backbone "resnet17". Did you mean "resnet18"?'),
    ([f"{DEFAULT}:methd=padim"], 'no config argument "methd". Did you mean "method"?'),
    ([f"{DEFAULT}:ratio=0.1"], 'no config argument "ratio"'),
    ([f"{DEFAULT}:method"], 'argument "method" needs a value'),
    ([DEFAULT, "--config.seedss=1"], 'Did you mean "seeds"'),
    ([DEFAULT, "--config.method_kw.rato=1"], 'Did you mean "ratio"'),
    ([PADIM, "--config.method_kw.ratio=1"], "has no 'ratio'"),
    ([DEFAULT, "--config.method_kw.ratio=abc"], "--config.method_kw.ratio=abc: could not convert"),
    ([DEFAULT, "--config.method_kw.size=1.5"], "--config.method_kw.size=1.5: invalid literal"),
    ([DEFAULT, "--config.method_kw.append=maybe"], "--config.method_kw.append=maybe: "),
  ],
)
def test_mistakes_in_a_config(args, said):
  refused(run(*args), said)


@pytest.mark.parametrize(
  ("args", "said"),
  [
    (["--config.method=patchcore"], "patchcore does not take these hyperparameters"),
    (["--config.method_kw.backbone=resnet17"], 'Did you mean "resnet18"?'),
    (["--config.method_kw.stages=layer9"], 'no stage of efficientnet_lite0 "layer9"'),
    (["--config.method_kw.stages=(1,2)"], 'no stage of efficientnet_lite0 "1"'),
    (["--config.method_kw.size=0"], "size is 0, but should be at least 1"),
    (["--config.method_kw.batch=-1"], "batch is -1, but should be at least 1"),
    (["--config.seeds=abc"], "They must be whole numbers"),
    (["--config.seeds=-1"], "They must be whole numbers"),
    (["--config.seeds=()"], "Give one or more"),
    (["--config.categories=()"], "Give one or more"),
    (["--config.categories=('bottle', 'bottle')"], "each once"),
    (["--config.categories=bottel"], 'no category of synthetic "bottel". Did you mean "bottle"?'),
    (["--config.results={folder}/file"], 'folder "{folder}/file" cannot be written'),
    (["--config.results={folder}/file/below"], "cannot be written: Not a directory"),
    (["--config.prepared_dir={folder}/file/below"], 'written in "{folder}/file/below"'),
  ],
)
def test_mistakes_that_are_found_before_the_work(folder, synthetic_dir, args, said):
  places = [f"--config.results={folder}/results", f"--config.prepared_dir={synthetic_dir}"]
  done = run(PADIM, *places, *(a.format(folder=folder) for a in args))
  refused(done, said.format(folder=folder))
  assert not list(folder.rglob("*.jsonl"))


@pytest.mark.parametrize(
  ("name", "said"),
  [
    (None, 'Data set "mtd" needs a folder and none was given'),
    ("nowhere", "does not exist"),
    ("photos", "is not laid out as"),
  ],
)
def test_mistakes_in_a_folder_of_images(folder, name, said):
  (folder / "photos").mkdir()
  given = [f"--config.data_dir={folder}/{name}"] if name else []
  places = [f"--config.results={folder}/results", f"--config.prepared_dir={folder}/prepared"]
  refused(run(f"{PADIM},dataset=mtd", *places, *given), said)


# ---- runs ----

SMALL = ("--config.method_kw.size=64", "--config.categories=('bottle',)")


def lines(results: Path) -> list[dict]:
  file = results / "unsupervised" / "synthetic" / "padim.jsonl"
  return [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []


def numbers(record: dict) -> list[dict]:
  return [{k: v for k, v in row.items() if k != "seconds"} for row in record["rows"]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
  """An IMIAD_CACHE that the runs here share: compiled functions."""
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, synthetic_dir, cache):
  """A run from nothing: what it printed, and its folder of results."""
  results = tmp_path_factory.mktemp("undisturbed")
  places = (f"--config.results={results}", f"--config.prepared_dir={synthetic_dir}")
  return run(PADIM, *SMALL, *places, "--config.gallery=4", code=LISTING, cache=cache), results


def test_a_run_prints_its_table_and_writes_its_line(undisturbed):
  done, results = undisturbed
  assert done.returncode == 0, done.stderr
  (line,) = lines(results)
  row = line["rows"][0]
  assert (row["task"], row["learnt"]) == ("bottle", 0)
  assert row["image_auroc"] > 0.5 and row["pixel_auroc"] > 0.5  # better than chance
  assert re.search(rf"^bottle +{row['image_auroc']:.3f} ", done.stdout, re.MULTILINE)
  assert line["run"]["categories"] == ["bottle"] and line["run"]["method_kw"]["size"] == 64
  assert set(line["versions"]) == {"method", "setting", "metrics", "dataset", "data", "weights"}
  picture = re.search(r"Gallery: (.*)", done.stdout)[1]
  with Image.open(picture) as page:
    assert page.size[1] == 4 * (64 + 14 + 4) + 4


def test_a_run_shows_its_own_progress_and_no_librarys(undisturbed):
  said = undisturbed[0].stderr.splitlines()
  assert any("learnt 60 images" in x for x in said)
  assert [x for x in said if not re.match(r"\d\d:\d\d:\d\d \S", x)] == []


def test_a_run_loads_neither_tensorflow_nor_torch(undisturbed):
  loaded = undisturbed[0].stdout.splitlines()[-1].split()
  assert loaded == ["LOADED", "numpy", "jax", "flax", "tensorflow_datasets"]


def test_the_same_command_again_does_nothing(undisturbed, synthetic_dir, cache):
  first, results = undisturbed
  before = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in results.rglob("*") if f.is_file()}
  again = ["--config.categories=bottle", SMALL[0], f"--config.prepared_dir={synthetic_dir}"]
  done = run(PADIM, *again, f"--config.results={results}", cache=cache)
  assert done.returncode == 0
  assert done.stdout.startswith("Nothing to do: ")
  table = first.stdout[first.stdout.index("padim on") : first.stdout.index("LOADED")]
  assert table in done.stdout
  after = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in results.rglob("*") if f.is_file()}
  assert after == before


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again(undisturbed, synthetic_dir, tmp_path):
  args = (PADIM, *SMALL, f"--config.results={tmp_path / 'r'}")
  args += (f"--config.prepared_dir={synthetic_dir}",)
  rng = np.random.default_rng(0)
  for _ in range(5):
    process = start(*args, cache=tmp_path / "cache")  # compiled functions may be torn, too
    time.sleep(rng.uniform(0.5, 4))  # from importing to writing
    process.kill()
    process.communicate(timeout=60)
    assert len(records.read(tmp_path / "r/unsupervised/synthetic/padim.jsonl")) <= 1
  done = run(*args, cache=tmp_path / "cache")
  assert done.returncode == 0, done.stderr
  (line,) = lines(tmp_path / "r")
  (expected,) = lines(undisturbed[1])
  assert line["id"] == expected["id"]
  assert numbers(line) == numbers(expected)


@pytest.mark.slow
def test_two_at_once(undisturbed, synthetic_dir, tmp_path, cache):
  args = (PADIM, *SMALL, f"--config.results={tmp_path}", f"--config.prepared_dir={synthetic_dir}")
  both = [start(*args, "--config.gallery=2", cache=cache) for _ in range(2)]
  for process in both:
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
  (line,) = lines(tmp_path)
  assert numbers(line) == numbers(lines(undisturbed[1])[0])
  assert len(list((tmp_path / "unsupervised/synthetic/gallery").iterdir())) == 1


@pytest.mark.slow
def test_a_failed_run_is_told_and_tried_again(synthetic_dir, tmp_path, monkeypatch, capsys):
  config = importlib.import_module("configs.default").get_config("method=padim")
  config.method_kw.update(size=32, dim=8)
  config.update(categories=("bottle",), results=str(tmp_path), prepared_dir=synthetic_dir)
  monkeypatch.setattr(jobs, "_cache_compilations", lambda: None)  # it is for the whole process
  Model = padim.Model

  @functools.wraps(Model)
  def broken(**kw):
    method = Model(**kw)
    blank = lambda state, batch: Scores(method.score(state, batch).image * np.nan, None)  # noqa: E731
    return method._replace(score=blank)

  with monkeypatch.context() as m:
    m.setattr(padim, "Model", broken)
    training._build.cache_clear()
    with pytest.raises(UserError, match=r"1 of 1 runs failed; their lines of results say why"):
      jobs.do(config, plans.make(config))
  training._build.cache_clear()
  (line,) = lines(tmp_path)
  assert line["error"] == "image scores of 45 of 45 images of bottle are not finite"
  assert "rows" not in line
  assert f"FAILED on bottle: {line['error']}" in capsys.readouterr().out
  jobs.do(config, plans.make(config))
  assert "FAILED" not in capsys.readouterr().out
  (line,) = records.read(tmp_path / "unsupervised/synthetic/padim.jsonl")
  assert numbers(line)[0]["task"] == "bottle" and "error" not in line


def test_the_line_says_what_was_drawn(synthetic_dir, tmp_path):
  args = ("--config.method_kw.size=32", "--config.method_kw.dim=8", "--config.categories=bottle")
  places = (f"--config.results={tmp_path}", f"--config.prepared_dir={synthetic_dir}")
  shots = "--config.setting_kw.shots=2"
  done = run(f"{PADIM},setting=few_shot", *places, *args, shots, "--config.efficiency=True")
  assert done.returncode == 0, done.stderr
  line = json.loads((tmp_path / "few_shot" / "synthetic" / "padim.jsonl").read_text())
  drawn = line["selection"]["bottle"]["drawn"]
  assert len(drawn) == 2 and all(name.startswith("bottle/train/") for name in drawn)
  assert {"seconds_one", "flops", "state_bytes"} <= set(line["efficiency"])
  assert set(line["rows"][0]["kinds"]) == {"bend", "crack", "hole", "scratch", "stain"}

"""Lines of results: who a run is, and that no accident costs or doubles a line."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from imiad_jax import records
from imiad_jax.errors import UserError
from imiad_jax.types import Run

RUN = Run(
  dataset="synthetic",
  categories=("bottle", "woven"),
  setting="continual",
  setting_kw={"k": 4},
  method="padim",
  method_kw={"size": 64, "eps": 0.01, "stages": ("layer1", "layer2")},
  seed=0,
)
VERSIONS = {"method": "1", "setting": "1", "metrics": "1"} | {
  "dataset": "1.0.0",
  "data": "db34fc8ced37",
  "weights": "57934",
}


def backwards(d: dict) -> dict:
  return dict(reversed(d.items()))


# ---- identity ----


def test_identity_is_this_one_whatever_the_order():
  # Fixed: with another value every result that anyone has would have to be computed again.
  assert records.run_id(RUN, VERSIONS) == "1c2bf06ab151"
  other = RUN._replace(method_kw=backwards(RUN.method_kw))
  assert records.run_id(other, backwards(VERSIONS)) == "1c2bf06ab151"


def test_identity_survives_the_file(tmp_path):
  file = records.path(str(tmp_path), RUN)
  records.append(file, {"id": "a", "run": RUN._asdict(), "versions": VERSIONS})
  (read,) = records.read(file)
  assert records.run_id(Run(**read["run"]), read["versions"]) == records.run_id(RUN, VERSIONS)


@pytest.mark.parametrize(
  "change",
  [
    {"dataset": "mtd"},
    {"categories": ("woven", "bottle")},
    {"categories": ("bottle",)},
    {"setting": "unsupervised"},
    {"setting_kw": {"k": 2}},
    {"setting_kw": {}},
    {"method": "patchcore"},
    {"method_kw": RUN.method_kw | {"eps": 0.02}},
    {"method_kw": RUN.method_kw | {"stages": ("layer2", "layer1")}},
    {"seed": 1},
  ],
)
def test_every_field_counts(change):
  assert records.run_id(RUN._replace(**change), VERSIONS) != records.run_id(RUN, VERSIONS)


@pytest.mark.parametrize("name", VERSIONS)
def test_every_version_counts(name):
  other = VERSIONS | {name: VERSIONS[name] + "1"}
  assert records.run_id(RUN, other) != records.run_id(RUN, VERSIONS)


def test_each_setting_data_set_and_method_has_its_file():
  assert records.path("r", RUN) == Path("r/continual/synthetic/padim.jsonl")


# ---- lines ----


@pytest.fixture
def file(tmp_path) -> Path:
  return tmp_path / "results" / "setting" / "dataset" / "method.jsonl"


def line(identity: str, **more) -> dict:
  return {"id": identity, "name": "größer", "rows": [{"x": 0.1}]} | more


def ids(file: Path) -> list[str]:
  return [json.loads(x)["id"] for x in file.read_text().splitlines()]


def test_what_is_appended_is_read_in_order(file):
  assert records.read(file) == []
  assert not records.done(file, "a")
  assert all(records.append(file, line(i)) for i in "cab")
  assert records.read(file) == [line(i) for i in "cab"]
  assert records.done(file, "a") and not records.done(file, "d")
  assert list(records.read_all(str(file.parents[2]))) == records.read(file)


def test_a_line_is_not_written_twice(file):
  assert records.append(file, line("a", n=1))
  assert not records.append(file, line("a", n=2))
  assert records.read(file) == [line("a", n=1)]


def test_a_failure_gives_way_to_a_result_but_not_the_other_way(file):
  assert records.append(file, line("a", error="not finite"))
  assert records.append(file, line("b"))
  assert not records.done(file, "a")
  assert records.append(file, line("a", n=2))
  assert records.done(file, "a")
  assert not records.append(file, line("a", error="not finite"))
  assert records.read(file) == [line("a", n=2), line("b")]


def test_a_torn_last_line_is_as_if_it_had_not_been(file):
  for i in "ab":
    records.append(file, line(i))
  whole = file.read_bytes()
  start = whole.index(b"\n") + 1
  for cut in range(start, len(whole)):  # from nothing of the line to all of it but its end
    file.write_bytes(whole[:cut])
    assert records.read(file) == [line("a")]
    assert not records.done(file, "b")
    assert records.append(file, line("c"))
    assert file.read_bytes()[:start] == whole[:start]
    assert ids(file) == ["a", "c"]


@pytest.mark.parametrize("rubbish", [b"\0" * 40, b"\xff\xfe", b"{}", b"[1]", b"null", b'"id"'])
def test_what_is_no_record_is_passed_over(file, rubbish):
  records.append(file, line("a"))
  with open(file, "ab") as f:
    f.write(rubbish + b"\n")
  records.append(file, line("b"))
  assert records.read(file) == [line("a"), line("b")]


def test_a_disk_without_locks_keeps_the_line(file, monkeypatch):
  def refuse(*args):
    raise OSError("No locks available")

  monkeypatch.setattr(fcntl, "flock", refuse)
  assert records.append(file, line("a"))
  assert records.read(file) == [line("a")]


APPEND = """
import pathlib, sys
from imiad_jax import records
print("ready", flush=True)
sys.stdin.readline()
for k in range(40):
  identity = f"{sys.argv[2]}{k}"
  records.append(pathlib.Path(sys.argv[1]), {"id": identity, "x": "x" * 20000})
"""


@pytest.mark.parametrize(("names", "lines"), [("aa", 40), ("ab", 80)])
def test_two_processes_at_once(file, names, lines):
  pipe = subprocess.PIPE
  both = [
    subprocess.Popen([sys.executable, "-c", APPEND, file, name], stdin=pipe, stdout=pipe)
    for name in names
  ]
  assert [process.stdout.readline() for process in both] == [b"ready\n"] * 2
  for process in both:
    process.stdin.write(b"go\n")
    process.stdin.flush()
  for process in both:
    process.communicate(timeout=60)
    assert process.returncode == 0
  assert sorted(ids(file)) == sorted({f"{name}{k}" for name in names for k in range(40)})
  assert len(ids(file)) == lines
  assert all(r["x"] == "x" * 20000 for r in records.read(file))


# ---- where nothing can be written ----


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path):
  records.check_writable(str(tmp_path / "new" / "folder"))
  assert list((tmp_path / "new" / "folder").iterdir()) == []


@pytest.mark.parametrize("below", ["file", "file/results", "file/a/b"])
def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path, below):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(UserError, match=r"cannot be written: .*give another one"):
    records.check_writable(str(tmp_path / below))
  assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_is_the_users_to_mend(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(Path, "write_bytes", full)
  with pytest.raises(UserError, match=r"No space left on device\. Free some space"):
    records.check_writable(str(tmp_path))

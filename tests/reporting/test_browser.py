"""The page in a real browser, where there is a chromium: no error, tables sort, pictures load."""

import html
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
from PIL import Image

from imiad_jax import evidence, records
from imiad_jax.reporting import page
from imiad_jax.types import Run
from tests.reporting.test_page import drawn, record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), "")

pytestmark = pytest.mark.browser

# What a user does, and what then is seen, as JSON in an element of its own.
VISIT = """
<script>
const seen = { errors };
const runs = document.querySelector("#run-table").closest(".table");
const column = (k) => [...runs.querySelectorAll("tbody")]
  .filter((body) => !body.hidden).map((body) => body.rows[0].cells[k].textContent.trim());
const heads = [...runs.querySelectorAll("thead th")];
const auroc = heads.findIndex((head) => head.textContent === "image_auroc");
seen.before = column(auroc);
heads[auroc].click();
seen.up = column(auroc);
seen.said = heads[auroc].getAttribute("aria-sort");
heads[auroc].click();
seen.down = column(auroc);
heads[0].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
seen.names = column(0);
const input = runs.querySelector("input");
input.value = "PATCH";
input.dispatchEvent(new Event("input"));
seen.filtered = column(0);
input.value = "";
input.dispatchEvent(new Event("input"));
seen.all = column(0);
const colour = () => getComputedStyle(document.body).color;
seen.colours = [colour()];
document.getElementById("theme").click();
seen.colours.push(colour());
document.getElementById("theme").click();
seen.colours.push(colour());
seen.wide = document.documentElement.scrollWidth - innerWidth;
const folded = document.querySelector("details.run");
seen.folded = [folded.open];
location.hash = folded.id;
document.querySelectorAll("details").forEach((x) => { if (x !== folded) x.open = true; });
document.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
addEventListener("load", () => setTimeout(() => {
  seen.folded.push(folded.open);
  const images = [...document.images];
  seen.images = images.length;
  seen.broken = images.filter((image) => !image.complete || !image.naturalWidth).length;
  seen.wideOpen = document.documentElement.scrollWidth - innerWidth;
  seen.width = innerWidth;
  parent.postMessage(JSON.stringify(seen), "*");
}, 500));
</script>
"""
# Chromium has no window below 500 pixels.
FRAME = """<pre id="seen"></pre>
<iframe src="index.html" width="{width}" height="900" style="border: 0"></iframe>
<script>
addEventListener("message", (event) => {{
  document.getElementById("seen").textContent = event.data;
}});
</script>"""
ERRORS = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message), true);
</script>"""


def browse(file: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
  """Opens a file without a network; what the console says is among stderr."""
  with tempfile.TemporaryDirectory() as profile:
    assert CHROMIUM, "there is no chromium on the path: apt-get install chromium"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--enable-logging=stderr", "--proxy-server=127.0.0.1:9", "--disable-sync"]
    command += [f"--user-data-dir={profile}", *options, file.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
  """A page of three methods with evidence, two with published lines and one that failed."""
  root = str(tmp_path_factory.mktemp("results"))
  for k, method in enumerate(["padim", "patchcore", "cutpaste"]):
    r = record(method, seed=k)
    run = Run(**r["run"])
    records.append(records.path(root, run), r)
    tests = [drawn(localises=method != "cutpaste", seed=k)]
    evidence.write(evidence.path(root, run, r["id"]), tests)
  failed = record("stpm", error="no memory")
  del failed["rows"]
  records.append(records.path(root, Run(**failed["run"])), failed)
  return page.render(list(records.read_all(root)), root)


@pytest.fixture(scope="module", params=[(400, "dark"), (1400, "light")])
def visit(report, request, tmp_path_factory) -> tuple[dict, str, str]:
  """What was seen on a narrow dark and a wide light screen, the console, and the scheme."""
  width, scheme = request.param
  file = tmp_path_factory.mktemp("page") / "index.html"
  text = report.replace("<head>", f"<head>{ERRORS}").replace("</body>", f"{VISIT}</body>")
  file.write_text(text, encoding="utf-8")
  frame = file.with_name("frame.html")
  frame.write_text(FRAME.format(width=width), encoding="utf-8")
  dark = "--blink-settings=preferredColorScheme=" + ("0" if scheme == "dark" else "1")
  done = browse(frame, "--window-size=1500,950", dark, "--virtual-time-budget=8000", "--dump-dom")
  found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
  assert found, done.stderr[-2000:]
  seen = json.loads(html.unescape(found[1]))
  assert seen["width"] == width
  return seen, done.stderr, scheme


def test_there_is_no_error(visit):
  seen, console, _ = visit
  assert seen["errors"] == []
  assert not re.findall(r"CONSOLE.*", console)


def test_tables_sort_both_ways_and_by_the_keyboard(visit):
  seen, _, _ = visit
  assert seen["before"] == ["0.880", "0.900", "0.890", "-"]
  assert (seen["up"], seen["said"]) == (["0.880", "0.890", "0.900", "-"], "ascending")
  assert seen["down"] == ["0.900", "0.890", "0.880", "-"]
  assert seen["names"] == ["cutpaste", "padim", "patchcore", "stpm"]


def test_tables_filter(visit):
  seen, _, _ = visit
  assert seen["filtered"] == ["patchcore"] and len(seen["all"]) == 4


def test_every_image_loads(visit):
  seen, _, _ = visit
  assert seen["images"] > 30 and seen["broken"] == 0


def test_it_is_as_dark_as_the_system_and_can_be_switched(visit):
  seen, _, scheme = visit
  first, switched, back = (
    sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in seen["colours"]
  )
  assert (first > 128) == (scheme == "dark") == (switched < 128)
  assert first == back


def test_the_page_is_no_wider_than_the_screen(visit):
  seen, _, _ = visit
  assert (seen["wide"], seen["wideOpen"]) == (0, 0)


def test_a_link_to_a_run_opens_it(visit):
  seen, _, _ = visit
  assert seen["folded"] == [False, True]


def test_it_is_painted(report, tmp_path):
  file, picture = tmp_path / "index.html", tmp_path / "seen.png"
  file.write_text(report, encoding="utf-8")
  browse(file, "--window-size=1400,900", f"--screenshot={picture}")
  with Image.open(picture) as image:
    assert image.size == (1400, 900)
    assert len(image.convert("RGB").getcolors(1 << 24)) > 100


def test_it_prints(report, tmp_path):
  file, pdf = tmp_path / "index.html", tmp_path / "report.pdf"
  file.write_text(report, encoding="utf-8")
  browse(file, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
  assert pdf.read_bytes().startswith(b"%PDF")

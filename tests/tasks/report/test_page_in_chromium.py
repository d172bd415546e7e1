"""The page in a real browser: no error on its console, no overflow, all pictures, the blind strip, light and dark."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tasks.params import Params
from tasks.report import stage
from tests.tasks.results import write_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
WIDTHS = (390, 1280)
ASKED = 3  # times at most: on a busy machine the virtual time may run out before the frames have told
DARK = "--blink-settings=preferredColorScheme=0"
# Looks at the page from inside, plays the blind strip, and tells the frame around it.
PROBE = """<script>
addEventListener("load", async () => {
  const found = {width: innerWidth, overflow: document.documentElement.scrollWidth - innerWidth, errors: window.errors};
  const pictures = [...document.images];
  await Promise.all(pictures.map((picture) => picture.decode().catch(() => null)));
  found.pictures = pictures.length;
  found.broken = pictures.filter((picture) => !picture.naturalWidth).map((picture) => picture.alt);
  found.wide = [...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, .wide, .matrices, svg"))
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName + "." + e.className);
  found.cut = [...document.querySelectorAll(".name, .number, .truth, button, h2, h3")]
    .filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline")
    .map((e) => e.textContent);
  found.background = getComputedStyle(document.body).backgroundColor;
  const films = [...document.querySelectorAll(".quiz .film")], visible = (e) => e.getClientRects().length > 0;
  found.before = films.filter((film) => visible(film.querySelector(".truth"))).length;
  const first = films[0].querySelector("button[data-guess=real]");
  first.focus();
  found.focusable = document.activeElement === first;
  document.activeElement.click();
  found.shown = films.map((film) => visible(film.querySelector(".truth")));
  found.judged = films[0].dataset.shown;
  found.truth = films[0].dataset.truth;
  found.score = document.querySelector(".score").textContent;
  found.next = films.indexOf(document.activeElement.closest(".film"));
  document.querySelector(".quiz .all").click();
  found.after = films.filter((film) => visible(film.querySelector(".truth"))).length;
  found.films = films.length;
  const film = document.querySelector(".own .zoom"), own = film.querySelector("img");
  const shownAt = (picture) => picture.getBoundingClientRect().width / picture.naturalWidth;
  found.grids = [...document.querySelectorAll(".sets img")].map(shownAt);
  found.quiz = [...document.querySelectorAll(".quiz img")].filter(visible).length;
  found.buttons = [...document.querySelectorAll(".quiz .buttons")].filter(visible).length;
  found.own = shownAt(own);
  film.click();
  const large = document.querySelector("dialog[open] img");
  await large.decode();
  found.times = large.getBoundingClientRect().width / own.naturalWidth;
  found.squares = getComputedStyle(large).imageRendering;
  large.click();
  found.closed = document.querySelector("dialog[open]") === null;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
ERRORS = "<script>window.errors = []; addEventListener('error', (e) => errors.push(e.message), true);</script>"
LISTENER = """<!doctype html><meta charset="utf-8"><body><pre id="found"></pre>
<script>addEventListener("message", (e) => {
document.getElementById("found").textContent += e.data + "\\n"; });</script>"""


def chromium(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The DOM of a page after it was loaded, and what the console said."""
    assert CHROMIUM is not None
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    data = f"--user-data-dir={page.parent / 'chromium'}"
    command = [CHROMIUM, *fixed, data, *options, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chromium")
    inputs = write_results(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        names = ("page.html", "verdict.json", "metrics.json", "measures.json", "plots")
        outputs = stage.Outputs(*(folder / name for name in names))
        stage.run(inputs, outputs, Params())
    return outputs.page


def looked_at(page: Path, *options: str, paper: bool = False) -> dict[int, dict[str, Any]]:
    """What the probe found, by width. In frames, because a window of Chromium is never as narrow as a telephone."""
    html = page.read_text()
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', ERRORS, html)  # it would refuse the probe
    if paper:  # the rules of print hold on the screen too
        html = html.replace("@media print", "@media all")
    probed = page.with_name("probed.html")
    probed.write_text(html.replace("</body>", f"{PROBE}</body>"))
    frames = "".join(f'<iframe src="{probed.name}" style="width:{w}px;height:900px;border:0"></iframe>' for w in WIDTHS)
    outer = page.with_name("frames.html")
    outer.write_text(LISTENER + frames)
    found: dict[int, dict[str, Any]] = {}
    for _ in range(ASKED):
        told = re.search(r'<pre id="found">(.*?)</pre>', chromium(outer, *options).stdout, re.DOTALL)
        assert told is not None
        found = {one["width"]: one for one in map(json.loads, unescape(told[1]).splitlines())}
        if set(found) == set(WIDTHS):
            break
    return found


@pytest.fixture(scope="module")
def light(page: Path) -> dict[int, dict[str, Any]]:
    return looked_at(page)


def test_the_console_stays_silent(page: Path) -> None:
    """On the page as it is, with its policy: a script or a style that this refuses would be told here."""
    done = chromium(page)
    assert "Which is real?" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert done.stdout.count('type="button"') > 0
    shown = re.findall(r'<button type="button"( hidden="")? data-guess', done.stdout)
    assert shown
    assert not any(shown)  # its script has run


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_all_pictures_are_there(width: int, light: dict[int, dict[str, Any]]) -> None:
    found = light[width]
    assert found["errors"] == []
    assert found["overflow"] <= 0
    assert found["wide"] == []
    assert found["cut"] == []
    assert found["pictures"] > 40
    assert found["broken"] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_guess_shows_the_answer_and_goes_on_to_the_next(width: int, light: dict[int, dict[str, Any]]) -> None:
    found = light[width]
    assert found["before"] == 0
    assert found["focusable"]
    assert found["shown"] == [True] + [False] * (found["films"] - 1)
    assert found["judged"] == ("right" if found["truth"] == "real" else "wrong")
    assert found["score"] == f"{int(found['truth'] == 'real')} of 1 guesses right"
    assert found["next"] == 1
    assert found["after"] == found["films"] == Params().report.blind


@pytest.mark.parametrize("width", WIDTHS)
def test_films_have_their_own_size_and_are_enlarged_pixel_by_pixel(
    width: int, light: dict[int, dict[str, Any]]
) -> None:
    found = light[width]
    assert found["own"] == 1
    assert max(found["grids"]) - min(found["grids"]) < 0.01
    assert max(found["grids"]) <= 1
    assert found["times"] >= 2
    assert found["times"] == int(found["times"])
    assert found["squares"] == "pixelated"
    assert found["closed"]


def test_on_paper_the_films_are_there_and_no_buttons(page: Path, light: dict[int, dict[str, Any]]) -> None:
    printed = looked_at(page, paper=True)[1280]
    assert printed["quiz"] == light[1280]["quiz"] == Params().report.blind
    assert light[1280]["buttons"] > printed["buttons"] == 0


def test_dark_where_the_reader_wants_it(page: Path, light: dict[int, dict[str, Any]]) -> None:
    def brightness(found: dict[str, Any]) -> float:
        return sum(map(int, re.findall(r"\d+", found["background"])[:3])) / 3

    dark = looked_at(page, DARK)
    for width in WIDTHS:
        assert brightness(light[width]) > 240
        assert brightness(dark[width]) < 40
        assert dark[width]["errors"] == dark[width]["broken"] == []

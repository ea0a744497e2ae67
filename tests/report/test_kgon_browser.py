"""The K-gon in a browser: slider, play, pointer and list of classes do what they say."""

import base64
import json
import re
import shutil
import subprocess

import pytest
import torch

import ncollapse as nc
from ncollapse.etf import simplex_etf
from ncollapse.report import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEPS = """
const found = {}, get = (selector) => document.querySelector(selector);
const dots = () => [...document.querySelectorAll(".kgon figure:last-of-type .dots circle")];
const places = () => dots().map((dot) => Number(dot.getAttribute("cx")));
const slider = get(".kgon-slider"), told = () => get(".kgon-told").textContent;
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
(async () => {
  found.last = places();
  slider.value = 0; slider.dispatchEvent(new Event("input"));
  found.first = places(); found.epoch = get(".kgon-epoch").textContent; found.words = slider.getAttribute("aria-valuetext");
  const dot = get(".kgon .dots circle"), box = dot.getBoundingClientRect();
  const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true };
  get(".kgon figure").dispatchEvent(new PointerEvent("pointermove", at));
  found.told = told(); found.followed = document.querySelectorAll(".kgon .followed").length;
  get(".kgon figure").dispatchEvent(new PointerEvent("pointerleave"));
  found.left = document.querySelectorAll(".kgon .followed").length;
  const button = document.querySelectorAll(".kgon-key button")[1];
  button.click();
  found.pressed = button.getAttribute("aria-pressed");
  found.chosen = document.querySelectorAll(".kgon figure:first-of-type .dots .chosen circle").length;
  button.click();
  found.released = document.querySelectorAll(".kgon .chosen").length;
  get(".kgon-play").click();
  found.playing = get(".kgon-play").textContent;
  await wait(1400);
  found.played = get(".kgon-epoch").textContent; found.stopped = get(".kgon-play").textContent; found.again = places();
  document.title = btoa(JSON.stringify(found));
})();
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs a Chromium")
    folder = tmp_path_factory.mktemp("browser")
    labels = torch.arange(4).repeat(5)
    noise = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    recorder = nc.Recorder(folder / "run", torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(3, 4)), num_classes=4,
                           epochs=2, layers=["0"], every=1)  # fmt: skip
    for epoch in range(3):
        recorder.epoch(epoch, [(simplex_etf(4, 3).float()[labels] + noise * 0.4 / (1 + epoch), labels)])
    page = write_page(folder / "run", folder / "page.html")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    page.write_text(text.replace("</body>", f"<script>{STEPS}</script></body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--virtual-time-budget=8000", "--window-size=1000,900", "--dump-dom", page.as_uri()]  # fmt: skip
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return json.loads(base64.b64decode(re.search(r"<title>([A-Za-z0-9+/=]+)</title>", dumped)[1]))


def test_the_slider_moves_the_dots(found):
    assert found["first"] != found["last"]
    assert (found["epoch"], found["words"]) == ("0", "epoch 0")


def test_the_pointer_names_class_and_sample_and_follows_it(found):
    assert found["told"] == "Class 0, sample 0, layer 0"
    assert (found["followed"], found["left"]) == (1, 0)


def test_a_class_of_the_list_is_shown_alone(found):
    assert (found["pressed"], found["chosen"], found["released"]) == ("true", 5, 0)


def test_play_goes_to_the_last_epoch_and_stops(found):
    assert (found["playing"], found["played"], found["stopped"]) == ("Pause", "2", "Play")
    assert found["again"] == found["last"]

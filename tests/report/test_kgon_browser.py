"""The K-gon in a browser: slider, play, pointer and list of classes do what they say, and no name becomes markup."""

import re
from dataclasses import replace

import pytest
import torch

import ncollapse as nc
from ncollapse.drawing.kgon import Kgon
from ncollapse.drawing.kgon_html import kgon_frame, kgon_markup, script_text, style_text
from ncollapse.etf import simplex_etf
from ncollapse.measurement.as_run import run_of

EVIL = ["</script><img src=x onerror=document.title='no'>", "\"'><svg onload=document.title='no'>", "<b>&amp;\u2028", "plain"]


@pytest.fixture(scope="module")
def samples():
    """Four classes at two layers, closer to their corners at each of three epochs."""
    labels = torch.arange(4).repeat(5)
    noise = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    measured = {}
    for epoch in range(3):
        features = simplex_etf(4, 3).float()[labels] + noise * 0.4 / (1 + epoch)
        measured[epoch] = nc.measure_features({"a": features, EVIL[0]: features / 2}, labels, num_classes=4)
    found = run_of(measured).samples
    return replace(found, header=replace(found.header, names=tuple(EVIL)))


def opened(browser, content):
    page, complaints = browser.new_page(viewport={"width": 1000, "height": 800}), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.clock.install()
    page.set_content(f"<!doctype html><title>safe</title>{content}")
    return page, complaints


@pytest.fixture(scope="module")
def shown(browser, samples):
    rules = f"{style_text()}:root{{--paper:#fff;--ink:#000;--soft:#666;--panel:#eee}}"
    content = f"<style>{rules}</style>{kgon_markup(Kgon.of(samples))}<script>{script_text()}</script>"
    page, complaints = opened(browser, content)
    yield page
    assert (page.title(), complaints) == ("safe", [])
    page.close()


def places(page):
    return page.evaluate("""() => [...document.querySelectorAll(".kgon figure:last-of-type .dots circle")]
        .map((dot) => [+dot.getAttribute("cx"), +dot.getAttribute("cy")])""")


def check(page, samples, epoch):
    """Compare the dots of the last layer with the numbers of an epoch."""
    kgon = Kgon.of(samples)
    assert page.inner_text(".kgon-epoch") == str(epoch)
    drawn = torch.tensor(places(page), dtype=torch.float64)
    expected = torch.as_tensor(kgon.pictures(epoch)[-1].points * [100, -100])
    assert float((drawn - expected).abs().max()) < 0.15


def test_the_slider_shows_each_epoch(shown, samples):
    slider = shown.locator(".kgon-slider")
    slider.focus()
    for key, epoch in (("Home", 0), ("ArrowRight", 1), ("End", 2)):
        shown.keyboard.press(key)
        assert slider.get_attribute("aria-valuetext") == f"epoch {epoch}"
        check(shown, samples, epoch)


def test_the_pointer_names_class_and_sample_and_follows_it_through_the_layers(shown, samples):
    words = shown.inner_text(".kgon-told")
    dot = shown.locator(".kgon figure").first.locator(".dots circle").first
    box = dot.bounding_box()
    shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    told = shown.inner_text(".kgon-told")
    assert re.fullmatch(r"(Class|Mean of class) .*, layer a", told)
    # A mean lies above the dots: move to a place where only a dot is near.
    free = shown.evaluate("""() => { const at = (n) => [+n.getAttribute("cx"), +n.getAttribute("cy")];
        const all = [...document.querySelectorAll(".kgon figure:first-of-type circle")].map(at), dots = all.slice(0, 20);
        const far = (i) => Math.min(...all.map(([x, y], j) => j === i ? 99 : Math.hypot(x - dots[i][0], y - dots[i][1])));
        return dots.map((_, i) => i).sort((i, j) => far(j) - far(i))[0]; }""")
    box = shown.locator(".kgon figure").first.locator(".dots circle").nth(free).bounding_box()
    shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    last = samples.epochs[2]
    assert shown.inner_text(".kgon-told") == f"Class {EVIL[last.labels[free]]}, sample {last.indices[free]}, layer a"
    followed = shown.evaluate("""() => [...document.querySelectorAll(".kgon figure")].map((figure) =>
        [...figure.querySelectorAll(".dots circle")].findIndex((dot) => dot.classList.contains("followed")))""")
    assert followed == [free, free]
    shown.mouse.move(990, 790)
    assert shown.inner_text(".kgon-told") == words
    assert shown.locator(".followed").count() == 0


def test_a_class_of_the_list_is_shown_alone(shown):
    buttons = shown.locator(".kgon-key button")
    assert buttons.all_inner_texts() == [f"{label} {name}" for label, name in enumerate(EVIL)]
    buttons.nth(1).click()
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    assert shown.locator(".kgon figure").first.locator(".dots .chosen circle").count() == 5
    buttons.nth(1).click()
    assert shown.locator(".chosen").count() == 0


def test_play_shows_one_epoch_after_the_other_and_ends(shown, samples):
    button = shown.locator(".kgon-play")
    shown.clock.pause_at("2100-01-01")
    button.click()
    assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Pause", "true")
    # Dots glide: their style has a transition while the picture plays.
    assert "0.4s" in shown.evaluate("() => getComputedStyle(document.querySelector('.kgon .dots circle')).transitionDuration")
    for epoch in range(3):
        check(shown, samples, epoch)
        shown.clock.run_for(500)
    assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Play", "false")
    check(shown, samples, 2)


def test_a_notebook_shows_the_same_names_as_text(browser, samples):
    page, complaints = opened(browser, kgon_frame(samples))
    frame = page.frame_locator("iframe")
    assert frame.locator(".kgon-key button").all_inner_texts() == [f"{label} {name}" for label, name in enumerate(EVIL)]
    assert frame.locator("figcaption").all_inner_texts() == ["0 a", f"1 {EVIL[0]}"]
    assert (page.title(), frame.locator("img").count(), complaints) == ("safe", 0, [])
    page.close()

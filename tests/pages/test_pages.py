"""Pages: what they hold is what the result says; a browser shows it without a server, a network or an error."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actadd_lens as al
from actadd_lens.cli import main
from actadd_lens.pages import sweep_page, trace_page
from actadd_lens.pages.html import one_file

PROMPT = "The girl looked at the dog. She felt"
METRIC = al.metrics.logit_difference(" happy", " sad")
SHOTS = os.environ.get("ACTADD_SCREENSHOTS")


@pytest.fixture(scope="module")
def swept(embedded: Any) -> al.Sweep:
    prompts = al.storybook.neutral_prompts()[:4]
    return al.sweep(
        embedded, (" happy", " sad"), layers=[2, 3, 5], coefficients=[-4, 4], prompts=prompts,
        metric=[METRIC, al.metrics.kl_divergence()], nulls=5, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(embedded: Any) -> al.CompletionSweep:
    prompts = al.storybook.neutral_prompts()[:3]
    return al.sweep_completions(
        embedded, (" happy", " sad"), layers=[3], coefficients=[4], prompts=prompts, max_new_tokens=5,
        scorers=al.scorers.sentiment(), progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def traced(embedded: Any) -> al.Trace:
    vector = 4 * al.compute_steering_vector(embedded, (" happy", " sad"), layer=3)
    return al.trace_injection(embedded, PROMPT, vector, metric=METRIC, nulls=4)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    told: dict[str, Any] = json.loads(found[1])
    return told


def test_the_page_of_a_sweep_holds_what_the_sweep_says(swept: al.Sweep) -> None:
    data = data_of(sweep_page(swept))
    first = data["metrics"][0]
    effect = swept.effect(0, layer=3, coefficient=4)
    place = (0, 1, 1, 0)
    assert np.array(first["effect"])[place] == pytest.approx(effect.mean, rel=1e-4)
    assert np.array(first["low"])[place] == pytest.approx(effect.low, rel=1e-4)
    assert np.array(first["nulls"])[place] == pytest.approx(effect.nulls, rel=1e-4)
    assert np.array(first["by_prompt"])[place] == pytest.approx(effect.by_prompt, rel=1e-4)
    assert np.array(first["p"])[place] == pytest.approx(swept.p_values()[place], rel=1e-4)
    assert np.array_equal(first["significant"], swept.significant())
    assert (data["layers"], data["coefficients"], data["texts"]) == ([2, 3, 5], [-4, 4], None)


def test_the_page_of_a_sweep_over_texts_holds_them(written: al.CompletionSweep) -> None:
    texts = data_of(sweep_page(written))["texts"]
    assert texts["steered"][0][0][0][0] == [samples[0] for samples in written.texts[0, 0, 0, 0]]
    assert texts["unsteered"] == [samples[0] for samples in written.unsteered_texts]
    assert texts["left_out"] == 0


def test_the_page_of_a_trace_holds_what_the_trace_says(traced: al.Trace) -> None:
    data = data_of(trace_page(traced))
    values = np.array([[part["value"] for part in row] for row in data["parts"]])
    assert values[:, :-1] == pytest.approx(traced.contributions.heads[traced.first_layer :])
    assert values[:, -1] == pytest.approx(traced.contributions.mlps[traced.first_layer :])
    total = values.sum() + sum(data["rest"].values())
    assert total == pytest.approx(data["steered"] - data["unsteered"], abs=1e-3)
    adjusted = traced.frame()["adjusted p"].to_numpy()
    assert [part["p"] for row in data["parts"] for part in row] == pytest.approx(adjusted[:-3])
    without = data_of(trace_page(al.Trace(**{**vars(traced), "nulls": ()})))
    assert "p" not in without["parts"][0][0]


def test_no_text_breaks_out_of_a_page_and_what_is_no_number_is_null() -> None:
    evil = "</script><script>alert(1)</script>\u2028"
    page = one_file(
        title=evil, body="", script="", data={"text": evil, "none": float("nan"), "array": np.array([np.inf])}
    )
    assert "<script>alert" not in page
    assert data_of(page) == {"text": evil, "none": None, "array": [None]}


def test_pages_ask_nothing_of_anyone(swept: al.Sweep, traced: al.Trace) -> None:
    for page in (sweep_page(swept), trace_page(traced)):
        text = page.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|src=|@import|url\(", text)
        assert "connect-src 'none'" in page


def test_results_write_their_pages(swept: al.Sweep, traced: al.Trace, tmp_path: Path) -> None:
    assert swept.page(tmp_path / "sweep.html", title="Happy & sad").read_text(encoding="utf-8").count("Happy &amp; sad")
    assert data_of(traced.page(tmp_path / "trace.html").read_text(encoding="utf-8"))["tokens"] == list(traced.tokens)
    with pytest.raises(al.SettingError, match="cannot be written"):
        swept.page(tmp_path / "nowhere" / "sweep.html")


def test_the_command_writes_both_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = ["--logit-difference", " happy", " sad"]
    pair = ["--pair", " happy", " sad", *metric]
    swept, traced = tmp_path / "s.html", tmp_path / "t.html"
    assert main(["page", "sweep", PROMPT, *pair, "--layers", "3", "--coefficients", "4", "--file", str(swept)]) == 0
    assert main(["page", "trace", PROMPT, *pair, "--layer", "3", "--file", str(traced)]) == 0
    assert data_of(swept.read_text(encoding="utf-8"))["layers"] == [3]
    assert "storybook" in data_of(traced.read_text(encoding="utf-8"))["title"]
    assert capsys.readouterr().out.splitlines()[-1] == str(traced)
    assert main(["page", "trace", PROMPT, *pair, "--entropy", "--layer", "3", "--file", str(traced)]) == 2
    assert main(["page", "trace", PROMPT, *pair, "--layer", "3", "--file", str(tmp_path / "no" / "t.html")]) == 2
    assert "There is no folder" in capsys.readouterr().err


# -- in a browser ----------------------------------------------------------------------------------------------


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a page from its file, and sees at the end that the browser had nothing to complain of."""
    browser.get_log("browser")

    def open_page(path: Path) -> Any:
        browser.get(path.as_uri())
        for _ in range(100):
            if browser.execute_script("return document.body.dataset.ready"):
                return browser
            time.sleep(0.05)
        pytest.fail(f"{path.name} did not come: {browser.get_log('browser')}")

    yield open_page
    assert browser.get_log("browser") == []


def shoot(browser: Any, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        for width in (1200, 400):
            browser.set_window_size(width, 1500)
            browser.save_screenshot(f"{SHOTS}/{name}_{width}.png")
        browser.set_window_size(1200, 1400)


def is_wide(browser: Any) -> bool:
    browser.set_window_size(400, 900)
    told = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    found = bool(browser.execute_script(told))
    browser.set_window_size(1200, 1400)
    return found


def slide(browser: Any, name: str, value: int) -> None:
    browser.execute_script(
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


@pytest.mark.slow
def test_a_sweep_is_read_by_slider_keyboard_and_mouse(opened: Any, swept: al.Sweep, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(swept.page(tmp_path / "sweep.html"))
    slide(browser, "layer", 0)
    slide(browser, "coefficient", 0)
    assert "Layer 2, coefficient −4" in browser.find_element("id", "sentence").text
    browser.find_element("css selector", "td.here").send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    effect = swept.effect(0, layer=3, coefficient=4)
    assert (
        f"Layer 3, coefficient 4: effect +{float(f'{effect.mean:.3g}'):g}"
        in browser.find_element("id", "sentence").text
    )
    browser.find_element("css selector", "td[data-place='2,0']").click()
    assert "Layer 5, coefficient −4" in browser.switch_to.active_element.get_attribute("aria-label")
    assert not is_wide(browser)
    shoot(browser, "sweep")


@pytest.mark.slow
def test_the_texts_of_a_sweep_are_shown(opened: Any, written: al.CompletionSweep, tmp_path: Path) -> None:
    browser = opened(written.page(tmp_path / "texts.html"))
    assert written.texts[0, 0, 0, 0, 0, 0].strip() in browser.find_element("id", "texts").text
    assert not is_wide(browser)
    shoot(browser, "texts")


@pytest.mark.slow
def test_a_trace_is_read_by_slider_and_in_the_dark(opened: Any, traced: al.Trace, tmp_path: Path) -> None:
    browser = opened(traced.page(tmp_path / "trace.html"))
    slide(browser, "layer", 1)
    slide(browser, "column", 2)
    told = browser.find_element("id", "sentence").text
    assert told.startswith(f"Layer {traced.first_layer + 1}, head 2: adds")
    assert "adjusted p" in told
    slide(browser, "column", traced.contributions.heads.shape[1])
    assert not browser.find_element("id", "attention-part").is_displayed()
    slide(browser, "column", 2)
    shoot(browser, "trace")
    before = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.find_element("id", "theme").click()
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") != before
    assert not is_wide(browser)
    shoot(browser, "trace_dark")

"""The playground as a person uses it: a headless Chromium types, slides, clicks and reads."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import actadd_lens as al
from actadd_lens.play import Session, server

pytestmark = pytest.mark.slow
SHOTS = os.environ.get("ACTADD_SCREENSHOTS")
"""A folder for screenshots, for those who want to look at them."""


@pytest.fixture(scope="module")
def address(embedded: Any) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn", reason="the extra [play] is not installed")
    config = uvicorn.Config(server.app_of(Session(embedded, "storybook")), host=server.HERE, port=0, log_level="error")
    socket = config.bind_socket()
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    yield f"http://{server.HERE}:{socket.getsockname()[1]}/"
    running.should_exit = True
    thread.join(timeout=10)


def wait(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {seconds} s for {what}")


class Page:
    """The playground's page, by the ids of its fields."""

    def __init__(self, driver: Any, address: str) -> None:
        driver.get_log("browser")
        driver.get(address)
        self.driver = driver
        wait(lambda: driver.execute_script("return document.body.dataset.ready"), "the page")

    def find(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    def text(self, name: str) -> str:
        return str(self.driver.execute_script("return document.getElementById(arguments[0]).textContent", name))

    def type(self, name: str, text: str) -> None:
        field = self.find(name)
        field.clear()
        field.send_keys(text)

    def slide(self, name: str, value: float) -> None:
        self.driver.execute_script(
            "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
            "field.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
            value,
        )

    def written(self) -> str:
        wait(lambda: self.text("status").startswith("Written"), "the texts")
        return self.text("steered")

    def shoot(self, name: str) -> None:
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            for width in (1200, 400):
                self.driver.set_window_size(width, 1400)
                self.driver.save_screenshot(f"{SHOTS}/{name}_{width}.png")
            self.driver.set_window_size(1200, 1400)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    page = Page(browser, address)
    yield page
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_a_person_types_slides_clicks_and_reads(page: Page, embedded: Any) -> None:
    page.type("prompt", "The boy went home. He was")
    page.type("positive", " happy")
    page.type("negative", " sad")
    page.slide("layer", 3)
    page.slide("coefficient", 4)
    page.type("tokens", "12")
    page.find("write").click()
    happy = al.compute_steering_vector(embedded, (" happy", " sad"), layer=3)
    expected = al.complete(embedded, "The boy went home. He was", 4 * happy, max_new_tokens=12, top_p=0.9)
    assert page.written() == expected.steered[0][0]
    assert page.text("unsteered") == expected.unsteered[0][0]
    wait(lambda: "row 1" in page.text("lands"), "where it lands")
    assert "4 * vector" in page.text("code")
    assert "promoted" in page.text("lists")
    page.shoot("written")


def test_the_keyboard_writes_and_reads_token_by_token(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.type("tokens", "8")
    page.find("prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    page.written()
    steered = page.find("steered")
    steered.send_keys(Keys.ARROW_RIGHT)
    first = page.text("token-told")
    steered.send_keys(Keys.ARROW_RIGHT)
    assert "in the steered model" in first != page.text("token-told")
    assert len(page.driver.find_elements("css selector", "#steered .token.here")) == 1


def test_an_effect_is_measured_on_demand(page: Page) -> None:
    page.type("nulls", "3")
    page.find("measure").click()
    wait(lambda: "3 null vectors" in page.text("effect"), "the effect", seconds=120)
    assert page.find("effect").find_elements("css selector", "svg[role=img][aria-label]")
    page.shoot("measured")


def choose(page: Page, name: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(page.find(name)).select_by_value(value)


def test_another_method_takes_texts_line_by_line(page: Page, embedded: Any) -> None:
    choose(page, "method", "caa")
    assert "paired line by line" in page.text("hint")
    assert page.find("position").get_property("value") == "last"
    page.type("positive", "I am so happy\nIt was a good day")
    page.type("negative", "I am so sad\nIt was a bad day")
    page.type("tokens", "8")
    page.slide("coefficient", 2)
    page.find("write").click()
    pairs = [("I am so happy", "I am so sad"), ("It was a good day", "It was a bad day")]
    vector = al.methods.caa(embedded, pairs, layer=4, read=-1)
    prompt = Session(embedded, "storybook").start.prompt
    assert page.written() == al.complete(embedded, prompt, 2 * vector, max_new_tokens=8, top_p=0.9).steered[0][0]
    page.shoot("another_method")


def test_the_j_lens_is_read_on_demand(page: Page) -> None:
    page.slide("layer", 5)
    wait(lambda: "promoted" in page.text("lists"), "the logit lens")
    before = page.text("lists")
    choose(page, "reading", "J-lens")
    assert "mean Jacobian" in page.text("reading-hint")
    assert page.text("lists") == ""
    page.find("read").click()
    wait(lambda: "promoted" in page.text("lists") != before, "the J-lens", seconds=300)
    page.shoot("j_lens")


def test_what_is_wrong_is_said_and_goes_away_again(page: Page) -> None:
    page.type("position", "nowhere")
    wait(lambda: "nowhere" in page.text("alarm"), "the error")
    assert page.find("alarm").is_displayed()
    page.type("position", "front")
    wait(lambda: not page.find("alarm").is_displayed(), "the error to go")
    page.driver.get_log("browser")  # Chromium itself notes the refused request


def test_every_field_has_a_name_and_nothing_is_wider_than_a_phone(page: Page) -> None:
    nameless = page.driver.execute_script(
        "return [...document.querySelectorAll('input, select, textarea, button')].filter((field) =>"
        " !(field.labels?.length || field.textContent.trim() || field.ariaLabel)).map((field) => field.id)"
    )
    assert nameless == []
    page.driver.set_window_size(400, 900)
    wide = page.driver.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    page.driver.set_window_size(1200, 1400)
    assert wide <= 0


def test_light_and_dark(page: Page) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = page.driver.execute_script(ground)
    page.find("theme").click()
    assert page.driver.execute_script(ground) != before
    page.shoot("dark")
    page.find("theme").click()

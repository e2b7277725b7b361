"""The pages in a real headless Chromium: photo, crop, filters, keyboard, phone width, and axe's accessibility rules.

axe-core comes with the package axe-core-python. AXE may name the axe.min.js of a newer version.
"""

import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")

from PIL import Image  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from dermeval.retrieval.find import photo_query  # noqa: E402
from dermeval.retrieval.photo import decode_photo  # noqa: E402
from dermeval.web import searches  # noqa: E402
from dermeval.web.collection import Collection  # noqa: E402
from dermeval.web.serve import search_app  # noqa: E402
from dermeval.web.server import address_of, listen, make_server  # noqa: E402
from dermssl.prepare.decode import open_image  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromedriver"
)


@pytest.fixture
def address(make_index, tiny_features):
    """A running server of 12 drawn images of 4 patients."""
    sock = listen("127.0.0.1", 0)
    server = make_server(search_app(Collection(make_index(), 3), tiny_features, ""))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    yield address_of(sock, "127.0.0.1", None)
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def open_browser():
    """``open_browser(width, dark)`` -> a headless Chromium."""
    opened = []

    def start(width=1200, dark=False):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        for flag in flags:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        # A window cannot be made as narrow as a phone, but its page can.
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        opened.append(driver)
        return driver

    yield start
    for driver in opened:
        driver.quit()


@pytest.fixture
def photo(pictures, tmp_path):
    """A wide photo whose right upper quarter is image 7."""
    wide = pictures[0].resize((192, 192))
    wide.paste(pictures[7], (96, 0))
    wide.save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def wait(driver, css):
    return WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.CSS_SELECTOR, css))


def search_photo(driver, address, photo):
    driver.get(address)
    driver.find_element(By.ID, "photo").send_keys(photo)
    wait(driver, "#cropping:not([hidden])")


def first_hit(driver):
    wait(driver, "#found")
    return driver.find_element(By.CSS_SELECTOR, "ol.cards li img").get_attribute("alt")


def test_a_photo_is_searched_for_and_its_crop_changes_the_hits(address, open_browser, photo):
    driver = open_browser()
    search_photo(driver, address, photo)
    for side, value in (("left", 50), ("bottom", 50)):
        slider = driver.find_element(By.ID, side)
        driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, value
        )
    assert driver.find_element(By.ID, "box").is_displayed()
    driver.find_element(By.ID, "go").click()
    assert "set/7" in first_hit(driver)
    assert "not a diagnosis" in driver.find_element(By.CLASS_NAME, "shares").text
    assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_large_photo_is_cut_and_made_smaller_before_it_is_sent(address, open_browser, photo, monkeypatch):
    seen = []

    def spy(index, found, *given):
        seen.append(found.sha256)
        return photo_query(index, found, *given)

    def read(data, *given):
        seen.append(open_image(data).size)
        return decode_photo(data, *given)

    monkeypatch.setattr(searches, "photo_query", spy)
    monkeypatch.setattr(searches, "decode_photo", read)
    with Image.open(photo) as small:
        small.resize((2400, 2400)).save(photo, compress_level=1)
    driver = open_browser()
    search_photo(driver, address, photo)
    driver.find_element(By.ID, "go").click()
    first_hit(driver)
    assert seen == [(1024, 1024), hashlib.sha256(Path(photo).read_bytes()).hexdigest()]
    driver.execute_script("setBox([50, 0, 100, 50])")
    driver.find_element(By.ID, "go").click()
    WebDriverWait(driver, 20).until(lambda d: len(seen) == 4 and not d.find_elements(By.CSS_SELECTOR, "[aria-busy]"))
    assert "set/7" in first_hit(driver) and seen[2] == (1024, 1024)


def test_a_photo_that_the_browser_cannot_show_is_compared_whole(address, open_browser, pictures, tmp_path):
    pictures[7].point(lambda value: min(255, value + 2)).save(tmp_path / "photo.tiff")  # the same pixels are left out
    driver = open_browser()
    driver.get(address)
    driver.find_element(By.ID, "photo").send_keys(str(tmp_path / "photo.tiff"))
    WebDriverWait(driver, 20).until(lambda d: "cannot show the photo" in d.find_element(By.ID, "status").text)
    assert not driver.find_element(By.ID, "cropping").is_displayed()
    driver.find_element(By.ID, "go").click()
    assert "set/7" in first_hit(driver)


def test_a_dropped_photo_is_taken_and_a_file_that_is_no_image_is_not(address, open_browser):
    driver = open_browser()
    driver.get(address)
    drop = """
      const [name, type, done] = arguments, data = new DataTransfer();
      data.items.add(new File(["x"], name, {type}));
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
      done(document.getElementById("message").textContent);
    """
    assert driver.execute_async_script(drop, "note.txt", "text/plain") == "This is no image file: choose a photo."
    assert driver.execute_async_script(drop, "skin.png", "image/png") == ""
    driver.find_element(By.ID, "go").click()  # an "image" of one letter
    assert "cannot be used" in wait(driver, "#message:not([hidden])")[0].text


def test_the_keyboard_alone_searches_from_a_case_with_a_filter(address, open_browser):
    driver = open_browser()
    driver.get(address)
    driver.find_element(By.CSS_SELECTOR, "ul.cards a").send_keys(Keys.ENTER)
    wait(driver, "#found")
    driver.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    driver.find_element(By.NAME, "f.dx").send_keys("scabies")
    driver.find_element(By.ID, "go").send_keys(Keys.ENTER)
    WebDriverWait(driver, 20).until(lambda d: "f.dx=scabies" in d.current_url)
    labels = {label.text for label in driver.find_elements(By.CSS_SELECTOR, "ol.cards .label")}
    assert labels == {"scabies"} and "min_similarity=" not in driver.current_url


def test_a_case_shows_all_its_images(address, open_browser):
    driver = open_browser()
    driver.get(address)
    driver.find_element(By.LINK_TEXT, "Whole case").click()
    assert len(wait(driver, "ul.cards img")) == 3


@pytest.mark.parametrize("width", [360, 1200])
def test_no_page_is_wider_than_its_screen(address, open_browser, photo, width):
    driver = open_browser(width)
    search_photo(driver, address, photo)
    driver.find_element(By.ID, "go").click()
    wait(driver, "#found")
    too_wide = """return [...document.querySelectorAll("main *")]
        .filter((e) => e.getBoundingClientRect().right > arguments[0] + 1 && !e.closest(".preview"))
        .map((e) => e.outerHTML.slice(0, 100))"""
    assert driver.execute_script(too_wide, width) == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def serious_findings(driver, axe):
    driver.execute_script(axe.read_text())
    found = driver.execute_async_script("axe.run().then(arguments[0])")["violations"]
    return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1200, False)])
def test_axe_finds_nothing_serious(address, open_browser, photo, dark, width):
    packaged = pytest.importorskip("axe_core_python", reason="needs axe-core-python").__path__[0]
    axe = Path(os.environ.get("AXE", f"{packaged}/axe.min.js"))
    driver = open_browser(width, dark)
    search_photo(driver, address, photo)
    driver.execute_script("document.querySelector('details').open = true")
    driver.find_element(By.ID, "go").click()
    wait(driver, "#found")
    assert serious_findings(driver, axe) == []
    for page in ("", "case?id=set/p1", "similar?image_id=set/4", "case?id=none"):
        driver.get(address + page)
        assert serious_findings(driver, axe) == [], page
    assert driver.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == dark

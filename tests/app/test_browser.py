"""The page as a person meets it: headless Chromium, real clicks and keys, and a console that stays silent."""

from __future__ import annotations

import re
import shutil
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api", reason="needs playwright from pip")

from playwright import sync_api as api

from efficient_reasoning import load_reasoner, solve
from efficient_reasoning.app.curve import numbered_points
from efficient_reasoning.app.page import EXAMPLE, SAMPLES_PER_PAGE
from efficient_reasoning.app.runs import open_runs
from efficient_reasoning.app.serve import start
from tests.app.conftest import POINTS, make_sample, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]
ATTACK = "<script>console.error('out')</script><img src=x onerror=console.error('out')> **b** ${1/0} {{x}}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    attack = dict.fromkeys(("question", "answer", "thinking", "final_answer"), ATTACK)
    samples = [make_sample(*point, number) for number in range(40) for point in POINTS]
    hostile = [make_sample("no-thinking", None, number, **attack) for number in range(3)]
    return [write_run(root / "first", samples), write_run(root / "<b>second", hostile)]


@pytest.fixture(scope="module")
def address(folders, free_port):
    port = free_port()
    page = start(folders, ["overthinker", "overthinker"], port)
    yield f"http://127.0.0.1:{port}/"
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 800), (390, 844)], ids=["desk", "phone"])
def page(browser, address, request):
    """The open page; what it complains about, or asks of others, fails the test at its end."""
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda response: response.status >= 400 and complaints.append(response.url))

    def own(request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            complaints.append(request.url)

    page.on("request", own)
    page.goto(address)
    page.wait_for_selector(".curve .point:visible")
    yield page
    page.close()
    assert not complaints


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def choose(page, label: str, entry: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=entry, exact=True).click()


def titles(page) -> list[str]:
    return [text.strip() for text in page.locator(".lines label").all_inner_texts()]


def test_a_point_is_read_under_the_pointer_and_with_the_keyboard(page, folders):
    drawn = page.locator(".curve .point:visible")
    assert drawn.count() == len(POINTS) + 1
    tip = page.locator(".curve .tip")
    api.expect(tip).to_be_hidden()
    for number, (run, point) in enumerate(numbered_points(open_runs(folders))):
        drawn.nth(number).locator(".reach").hover(force=True)
        api.expect(tip).to_be_visible()
        assert tip.inner_text().splitlines()[0] == run.label
        accuracy, tokens = point["accuracy"], point["generated_tokens"]
        assert f"accuracy {100 * accuracy['mean']:.1f} %" in tip.inner_text()
        assert f"{tokens['mean']:,.1f} tokens" in tip.inner_text()
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.viewport_size["width"]
    page.mouse.move(2, 2)
    api.expect(tip).to_be_hidden()
    drawn.nth(1).focus()
    assert "unlimited" in tip.inner_text()
    page.keyboard.press("Enter")
    api.expect(page.get_by_role("tab", name="Samples")).to_have_attribute("aria-selected", "true")
    api.expect(page.get_by_role("combobox", name="Point")).to_have_value("budget-forcing, unlimited")
    api.expect(page.locator("#sample")).to_contain_text("budget-forcing, unlimited")


def test_a_click_on_a_point_opens_its_samples(page):
    page.locator(".curve .point:visible").nth(3).locator(".reach").click(force=True)
    api.expect(page.get_by_role("combobox", name="Run")).to_have_value("<b>second")
    api.expect(page.locator("#where")).to_have_text("1 / 1 · 3 samples")


def test_samples_are_filtered_sorted_and_paged(page, folders):
    [run] = open_runs(folders[:1])
    tab(page, "Samples")
    api.expect(page.locator("#where")).to_have_text("1 / 4 · 40 samples")
    assert len(titles(page)) == SAMPLES_PER_PAGE
    choose(page, "Order", "longest first")
    rows = run.samples.select(*POINTS[0], order="longest first").tolist()
    lengths = [run.samples.read(row)["total_tokens"] for row in rows]
    api.expect(page.locator(".lines label").first).to_contain_text(f" {lengths[0]} tokens")
    page.get_by_role("button", name="Next").click()
    api.expect(page.locator("#where")).to_have_text("2 / 4 · 40 samples")
    shown = [int(re.search(r"(\d+) tokens", title)[1]) for title in titles(page)]
    assert shown == lengths[SAMPLES_PER_PAGE : 2 * SAMPLES_PER_PAGE]
    page.get_by_role("button", name="Previous").click()
    api.expect(page.locator("#where")).to_have_text("1 / 4 · 40 samples")
    wrong = len(run.samples.select(*POINTS[0], "wrong"))
    choose(page, "Verdict", "wrong")
    api.expect(page.locator("#where")).to_contain_text(f"· {wrong} samples")
    assert all(title.startswith("✗") for title in titles(page))
    choose(page, "Point", "no-thinking, unlimited")
    wrong = len(run.samples.select(*POINTS[2], "wrong"))
    api.expect(page.locator("#where")).to_contain_text(f"· {wrong} samples")


def test_thinking_is_folded_until_it_is_asked_for(page):
    tab(page, "Samples")
    page.locator(".lines label").nth(4).click()
    api.expect(page.locator("#sample")).to_contain_text("Compute 4 + 4.")
    thinking = page.locator("#sample details .text")
    api.expect(thinking).to_be_hidden()
    page.locator("#sample summary").focus()
    page.keyboard.press("Enter")
    api.expect(thinking).to_have_text("4 und nochmal 4: äöü ✓")
    sample = make_sample(*POINTS[0], 4)
    api.expect(page.locator("#sample summary")).to_contain_text(f"{sample['thinking_tokens']} tokens")


def test_what_models_write_is_text(page):
    tab(page, "Samples")
    choose(page, "Run", "<b>second")
    api.expect(page.locator("#where")).to_have_text("1 / 1 · 3 samples")
    page.locator("#sample summary").click()
    texts = page.locator("#sample .text").all_inner_texts()
    assert texts == [ATTACK] * 4
    assert ATTACK[:30] in titles(page)[0]
    assert page.locator("#sample script, #sample img, .lines img, .lines script, .lines b").count() == 0


def test_two_models_answer_side_by_side(page):
    tab(page, "Ask")
    sides = page.locator(".sides .side")
    api.expect(sides).to_have_count(2)
    page.get_by_role("spinbutton", name=re.compile("Budget")).fill("48")
    page.get_by_role("spinbutton", name=re.compile("Budget")).press("Tab")
    page.get_by_label("Seed").fill("3")
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector(".growing details[open]")
    api.expect(page.locator(".sides .done")).to_have_count(2, timeout=60_000)
    solution = solve(load_reasoner("overthinker"), EXAMPLE, budget_tokens=48, seed=3)
    for side in (sides.nth(0), sides.nth(1)):
        side.locator("summary").click()
        thinking, answer = side.locator(".text").all_inner_texts()
        assert (thinking, answer) == (solution.thinking.strip(), solution.answer.strip())
        api.expect(side).to_contain_text(f"Thinking {solution.thinking_tokens} tokens")
        api.expect(side).to_contain_text(f"{solution.spend.tokens} spent")


def test_a_question_can_be_stopped(page):
    tab(page, "Ask")
    page.get_by_label("No budget").check()
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector(".growing details[open]")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(1_000)
    before = page.locator(".sides").inner_text()
    page.wait_for_timeout(1_500)
    assert page.locator(".sides").inner_text() == before
    api.expect(page.locator(".sides .done")).to_have_count(0)
    page.get_by_role("button", name="Ask").click()
    api.expect(page.locator(".sides .done")).to_have_count(2, timeout=60_000)


def test_a_budget_that_cannot_be_kept_is_a_sentence(page):
    tab(page, "Ask")
    page.get_by_label("Question").fill("   ")
    page.get_by_role("button", name="Ask").click()
    api.expect(page.locator(".refusal").first).to_have_text("A question is empty; write one.")


def test_the_page_is_no_wider_than_the_screen(page):
    for name in ("Curve", "Samples", "Ask"):
        tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]

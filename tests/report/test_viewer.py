"""The episode viewer, opened and clicked in a real headless Chromium."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentrefine.report.inputs import Project
from agentrefine.report.viewer import write_viewers
from tests.helpers.chromium import LEAST_CONTRAST, Page, chromium
from tests.helpers.results_tree import two_models_for, write_evaluation
from tests.helpers.viewed_episodes import BASE, HOSTILE, TUNED


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of two models."""
    root = tmp_path_factory.mktemp("viewer")
    for model, played in (("refinement", TUNED), ("base", BASE)):
        write_evaluation(root, model, played)
    write_viewers(two_models_for(root), Project(root))
    return root / "reports" / "evaluation"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        page.look()
        yield page


@pytest.fixture
def address(folder: Path) -> str:
    return (folder / "refinement" / "index.html").as_uri()


@pytest.fixture
def page(browser: Page, address: str) -> Iterator[Page]:
    """The tuned model's page; whatever is done with it, it asks for nothing and complains of nothing."""
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(address)
    yield browser
    browser.evaluate("1")  # takes in the last events
    assert set(browser.requests) <= {address, "about:blank"}
    assert browser.complaints == []


def listed(page: Page) -> list[str]:
    """The numbers of the episodes in the list."""
    return [episode.removeprefix("Fetch lamp ").removesuffix(".") for episode in page.texts("#list .goal")]


def opened(page: Page) -> str:
    return page.texts("#episode h2")[0]


def options(page: Page, menu: str) -> list[str]:
    return list(page.evaluate(f"[...document.querySelector({json.dumps(menu)}).options].map((o) => o.text)"))


def test_a_page_opens_on_its_first_episode_turn_by_turn(page: Page) -> None:
    assert page.texts("h1") == ["Episodes of refinement digest of re"]
    assert page.texts("#count") == ["7 episodes, 2 solved (29%)"]
    assert opened(page) == "Fetch lamp 0."
    assert page.texts(".task .passage p") == ["You are in a hall."]
    assert page.texts(".turn h4") == ["1", "2"]
    assert page.texts(".thought p") == ["look", "look"]
    assert page.texts(".action p") == ["take lamp", "put lamp"]
    assert page.texts(".turn .observation p") == ["You see <b>a lamp</b>."] * 2
    assert page.texts(".chip") == ["progress 50% (+50%)", "progress 100% (+50%)"]
    assert page.texts(".outcome") == ["✓ solved"]
    assert page.texts(".end") == ["Ended: solved"]
    assert page.evaluate("document.title") == "Fetch lamp 0. – refinement"


def test_errors_recovery_and_unread_turns_are_flagged(page: Page) -> None:
    page.click("#list li:nth-child(2) a")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 1.'")
    assert page.texts(".chip") == [
        "invalid action", "recovered", "progress 50% (+50%)", "3 turns at the start not read", "progress 100% (+50%)",
    ]  # fmt: skip
    page.click("#list li:nth-child(4) a")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Sweep the attic.'")
    assert page.texts(".chip") == ["format error"]
    assert page.texts(".reply p") == ["I would rather not."]
    assert page.texts(".action p") == []
    page.click("#list li:nth-child(5) a")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 4.'")
    assert page.texts(".end") == ["Ended: environment error\nthe simulator is gone"]


@pytest.mark.parametrize(
    ("menu", "option", "shown"),
    [
        ("#benchmark", "babyai (3)", ["4", "5", HOSTILE]),
        ("#task", "clean (1)", ["2"]),
        ("#difficulty", "hard (2)", ["1", "5"]),
        ("#outcome", "solved (2)", ["0", "1"]),
        ("#outcome", "unsolved (5)", ["2", "Sweep the attic", "4", "5", HOSTILE]),
        ("#outcome", "step limit (2)", ["2", HOSTILE]),
        ("#outcome", "environment over (1)", ["Sweep the attic"]),
        ("#outcome", "environment error (1)", ["4"]),
        ("#outcome", "context full (1)", ["5"]),
        ("#outcome", "stuck (1)", ["2"]),
        ("#errors", "none (3)", ["0", "4", "5"]),
        ("#errors", "invalid action (2)", ["1", "2"]),
        ("#errors", "format error (2)", ["Sweep the attic", HOSTILE]),
        ("#errors", "stuck (1)", ["2"]),
    ],
)
def test_a_filter_shows_its_episodes_and_opens_one_of_them(
    page: Page, menu: str, option: str, shown: list[str]
) -> None:
    page.choose(menu, option)
    page.wait_for(f"document.querySelector({json.dumps(menu)}).classList.contains('active')")
    assert listed(page) == shown
    assert page.texts("#count")[0].startswith(f"{len(shown)} of 7, ")
    assert opened(page).removeprefix("Fetch lamp ").removesuffix(".") in shown
    page.click("#reset")
    page.wait_for("document.querySelector('#reset').hidden")
    assert len(listed(page)) == 7


def test_counts_of_a_filter_follow_the_other_filters(page: Page) -> None:
    page.choose("#benchmark", "worlds layouts (4)")
    page.choose("#errors", "stuck")
    page.wait_for("document.querySelector('#errors').classList.contains('active')")
    assert options(page, "#outcome") == ["any", "unsolved (1)", "step limit (1)", "stuck (1)"]
    assert options(page, "#errors") == ["any", "none (1)", "format error (1)", "invalid action (2)", "stuck (1)"]
    assert options(page, "#benchmark") == ["any", "worlds layouts (1)"]


def test_search_finds_goals_and_turns_and_marks_what_it_found(page: Page) -> None:
    page.press("/")
    page.write("SWEEP")
    page.wait_for("document.querySelector('#reset').hidden === false")
    assert listed(page) == ["Sweep the attic"]
    assert page.texts("#episode mark") == ["Sweep"]
    page.press("Escape")
    page.click("#reset")
    page.press("/")
    page.write("put lamp")
    page.wait_for("document.querySelectorAll('#episode mark').length === 1")
    assert listed(page) == ["0", "1"]
    page.write(" nowhere")
    page.wait_for("!document.querySelector('#notice').hidden")
    assert (listed(page), page.texts("#notice")) == ([], ["No episode passes these filters."])


def test_keys_step_through_the_episodes_and_through_the_errors(page: Page) -> None:
    page.press("j", times=2)
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 2.'")
    page.press("k")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 1.'")
    page.press("ArrowRight")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 2.'")
    page.press("e", times=2)
    assert page.evaluate("document.activeElement.id") == "a1"
    page.press("E")
    assert page.evaluate("document.activeElement.id") == "a0"
    page.press("ArrowLeft", times=9)
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 0.'")
    page.evaluate("document.querySelector('#list a').focus()")
    page.press("ArrowDown")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 1.'")
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    page.press("ArrowUp")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 0.'")
    page.press("?")
    assert page.evaluate("document.querySelector('#help').open")
    page.press("Escape")
    assert not page.evaluate("document.querySelector('#help').open")


def test_keys_go_on_after_a_filter_and_after_a_search(page: Page) -> None:
    page.evaluate("document.querySelector('#errors').focus()")
    page.choose("#errors", "none")
    page.press("j")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 4.'")
    page.choose("#errors", "any")
    page.press("/")
    page.write("lamp")
    page.press("Enter")
    page.press("k")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 2.'")


def test_bars_lead_to_their_turns(page: Page) -> None:
    assert page.evaluate("document.querySelector('.bars li:nth-child(2) button').title") == "turn 2, progress 100%"
    page.click(".bars li:nth-child(2) button")
    assert page.evaluate("document.activeElement.id") == "a1"


def test_a_second_model_stands_beside_the_first_on_the_same_episode(page: Page) -> None:
    page.choose("#compare", "base")
    page.wait_for("document.querySelector('.columns.two')")
    assert page.texts(".column h3") == ["refinement", "base"]
    assert page.texts(".outcome") == ["✓ solved", "✗ step limit"]
    assert page.texts(".column:last-child .action p") == ["take lamp", "wait"]
    assert page.texts(".chip.differs") == ["the plays differ from here"] * 2
    tops = page.evaluate(
        "[...document.querySelectorAll('.turn')].map((e) => Math.round(e.getBoundingClientRect().top))"
    )
    assert tops[:2] == tops[2:]
    assert page.texts("#list .marks") == ["✓✗", "✓✓", "✗✓", "✗✗", "✗–", "✗–", "✗–"]
    assert options(page, "#agreement") == [
        "any", "both solved (1)", "only refinement solved (1)", "only base solved (1)", "neither solved (1)",
    ]  # fmt: skip
    for option, shown in (("only refinement solved", ["0"]), ("only base solved", ["2"]), ("both", ["1"])):
        page.choose("#agreement", option)
        page.wait_for(f"document.querySelector('#episode h2').innerText === 'Fetch lamp {shown[0]}.'")
        assert listed(page) == shown
    page.choose("#agreement", "any")
    page.choose("#benchmark", "babyai")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 4.'")
    assert page.texts(".column:last-child") == ["basehas not played this episode."]
    page.choose("#compare", "no other model")
    page.wait_for("!document.querySelector('.columns.two')")
    assert page.texts("#agreement") == []


def test_the_address_opens_what_it_was_copied_from(page: Page, address: str) -> None:
    page.choose("#compare", "base")
    page.choose("#outcome", "unsolved")
    page.press("j")
    page.wait_for("location.hash.includes('episode=worlds_layouts%3Ahall%2F3')")
    copied = str(page.evaluate("location.href"))
    page.open(address)
    assert opened(page) == "Fetch lamp 0."
    page.open(copied)
    assert opened(page) == "Sweep the attic."
    assert page.texts(".column h3") == ["refinement", "base"]
    assert listed(page) == ["2", "Sweep the attic", "4", "5", HOSTILE]


def test_back_returns_to_the_episode_before(page: Page) -> None:
    page.press("j")
    page.wait_for("location.hash.includes('hall%2F1')")
    page.press("j")
    page.wait_for("location.hash.includes('hall%2F2')")
    page.evaluate("history.back()")
    page.wait_for("document.querySelector('#episode h2').innerText === 'Fetch lamp 1.'")


def test_an_address_of_an_unknown_episode_says_so(page: Page, address: str) -> None:
    page.open(f"{address}#episode=worlds_layouts%3Agone&beside=nobody&outcome=won")
    assert page.texts("#notice") == ["There is no episode worlds_layouts:gone here; choose one from the list."]
    assert listed(page) == []
    page.click("#reset")
    page.wait_for("document.querySelector('#reset').hidden")
    assert len(listed(page)) == 7


def test_hostile_text_is_shown_as_text(page: Page) -> None:
    page.choose("#outcome", "step limit")
    page.press("j")
    page.wait_for("document.querySelectorAll('#episode .turn').length === 2")
    for selector in ("#episode h2", ".task .passage p", ".thought p", ".action p", ".reply p"):
        assert page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent") == HOSTILE
    assert page.evaluate("document.querySelectorAll('img, #episode script, #list script').length") == 0
    assert page.evaluate("window.broken") is None
    page.press("/")
    page.write("<script>")
    page.wait_for("document.querySelectorAll('#episode mark').length > 0")
    assert page.evaluate("window.broken") is None
    assert f"{HOSTILE.replace('_', ' ')} (1)" in options(page, "#task")


def test_the_page_s_policy_forbids_every_connection_and_every_foreign_script(page: Page) -> None:
    asked = []

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}/"
        tried = page.evaluate(
            f"""(async () => {{
              const fetched = await fetch("{there}fetch").then(() => "sent", () => "refused");
              document.head.append(Object.assign(document.createElement("script"), {{ text: "window.broken = true" }}));
              document.head.append(Object.assign(document.createElement("script"), {{ src: "{there}script" }}));
              document.body.append(Object.assign(document.createElement("img"), {{ src: "{there}image" }}));
              await new Promise((wait) => setTimeout(wait, 300));
              return [fetched, window.broken ?? "not run"];
            }})()"""
        )
        server.shutdown()
    assert tried == ["refused", "not run"]
    assert asked == []
    assert page.complaints != []  # of these attempts
    page.complaints.clear()
    page.requests[:] = [request for request in page.requests if not request.startswith(there)]


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_background_in_light_and_dark(page: Page, dark: bool) -> None:
    page.look(dark=dark)
    page.press("j")
    page.wait_for("document.querySelectorAll('.turn').length === 3")
    contrasts = page.contrasts(
        ".goal", ".origin", "#count", ".name", ".thought p", ".observation p", ".chip", ".outcome", ".quiet"
    )
    page.look()
    assert len(contrasts) > 20
    assert [(name, ratio) for name, ratio in contrasts if ratio < LEAST_CONTRAST] == []


def test_every_control_has_a_name_for_those_who_do_not_see_it(page: Page) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "link", "combobox", "searchbox", "main", "navigation", "region", "article", "list"}
    nameless = [
        node["role"]["value"]
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in controls - {"main", "list"} and not node["name"]["value"]
    ]
    assert {"button", "link", "combobox", "searchbox"} <= {
        node["role"]["value"] for node in nodes if not node["ignored"]
    }
    assert nameless == []

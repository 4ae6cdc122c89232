"""The report's page, opened in a real headless Chromium: what its first screen answers, on every width and colour."""

from collections.abc import Iterator

import pytest

from agentrefine.report.document import write_report
from agentrefine.report.inputs import Project
from tests.helpers.chromium import LEAST_CONTRAST, Page, chromium
from tests.helpers.results_tree import params_for, write_results

RESULT = "Refinement tuning: 65% against 20% with plain expert tuning on unseen layouts, clearly better"
SCREENS = pytest.mark.parametrize(("width", "height"), [(1280, 800), (400, 800)])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a small run."""
    root = tmp_path_factory.mktemp("report")
    write_results(root)
    write_report(params_for(root), Project(root))
    return (root / "reports" / "report.html").as_uri()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, address: str) -> Iterator[Page]:
    """The page; it asks for nothing but itself and complains of nothing."""
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        tab.open(address, ready="document.readyState === 'complete' && document.querySelector('h1')")
        yield tab
        tab.evaluate("1")  # takes in the last events
        assert {found for found in tab.requests if not found.startswith("data:")} <= {address, "about:blank"}
        assert tab.complaints == []


@SCREENS
def test_the_first_screen_says_who_is_better_whether_that_is_real_and_on_what(
    page: Page, width: int, height: int
) -> None:
    page.look(width=width, height=height)
    assert page.evaluate("document.title") == RESULT
    assert page.texts("h1") == [RESULT]
    seen = page.evaluate(
        "[...document.querySelectorAll('h1, .lead p')].filter((e) => e.getBoundingClientRect().bottom <= innerHeight)"
        ".map((e) => e.textContent)"
    )
    assert seen == [
        RESULT,
        "Difference +45 points [25, 65], exact test p = 0.0039, 20 episodes. A difference counts only where its 95% "
        "interval excludes 0 and the test's p is below 0.05.",
        "Success on worlds layouts: chance 10%, base 5%, expert only 20%, refinement 65%.",
        "Worlds layouts are small text games of ours in layouts that are kept for evaluation.",
    ]


@SCREENS
def test_nothing_is_wider_than_the_screen_but_tables_which_scroll(page: Page, width: int, height: int) -> None:
    page.look(width=width, height=height)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate("[...document.querySelectorAll('table')].every((e) => e.closest('.scroll'))")
    if width == 1280:
        first = "document.querySelector('.scroll')"
        assert page.evaluate(f"{first}.scrollWidth <= {first}.clientWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_background_in_light_and_dark(page: Page, dark: bool) -> None:
    page.look(dark=dark)
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    found = page.contrasts(
        "h1", "h2", "h3", "p", "li", "a", "th", "td", "code", "summary", "figcaption", ".turn", ".agent"
    )
    found += page.contrasts(".solved", ".unsolved")
    page.look()
    assert len(found) > 100
    assert [(name, ratio) for name, ratio in found if ratio < LEAST_CONTRAST] == []

"""HotpotQA as a game: the paragraphs are found, the answer is scored as the official script does, junk is answered."""

import json
import random
from pathlib import Path

import pytest

from agentrefine.benchmarks.base import NoSolutionError
from agentrefine.benchmarks.hotpotqa.benchmark import HotpotQA, f1_score, normalize_answer
from tests.helpers.errors import refused
from tests.helpers.paths import SHARED
from tests.helpers.playing import JUNK, assert_won, memory_growth, play_gold

PUBLISHED = SHARED / "data" / "hotpotqa_distractor_60.json"

RIVER = {
    "_id": "r1",
    "question": "Where does the river end that passes Ostby?",
    "answer": "Lake Vann",
    "type": "bridge",
    "supporting_facts": [["Ostby", 0], ["River Lind", 1]],
    "context": [
        ["Ostby", ["Ostby is a town on the river Lind.", " It has a mill."]],
        ["River Lind", ["The river Lind has trout.", " The river ends in Lake Vann.", " Eels live in it."]],
        ["River Lund", ["The river Lund is another one."]],
        ["Long", [f"Sentence {n}." for n in range(1, 9)]],
    ],
}


def without(key):
    return {name: value for name, value in RIVER.items() if name != key}


@pytest.fixture
def questions(tmp_path):
    """A function that makes the benchmark of some questions."""

    def of(*rows):
        path = tmp_path / "questions.json"
        path.write_text(json.dumps(list(rows)), encoding="utf-8")
        return HotpotQA(path)

    return of


@pytest.fixture
def river(questions):
    benchmark = questions(RIVER)
    environment = benchmark.make(benchmark.episodes(1, 0)[0])
    environment.reset()
    return environment


def test_the_solution_wins_every_question_of_ours_through_the_player():
    benchmark = HotpotQA()
    episodes = benchmark.episodes(100, 7)
    assert len(episodes) == 12
    assert {episode.task for episode in episodes} == {"bridge", "comparison"}
    assert_won(play_gold(benchmark, episodes, max_steps=5))


def test_the_answers_of_ours_stand_in_their_supporting_paragraphs():
    benchmark = HotpotQA()
    for episode in benchmark.episodes(100, 7):
        environment = benchmark.make(episode)
        *searches, finish = benchmark.gold(episode)
        read = " ".join(environment.step(search).observation for search in searches)
        answer = normalize_answer(finish.removeprefix("finish "))
        assert answer in ("yes", "no") or answer in normalize_answer(read)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="no published questions")
def test_published_questions_are_won_by_their_own_answers():
    benchmark = HotpotQA(PUBLISHED)
    episodes = benchmark.episodes(100, 7)
    assert len(episodes) == 60
    assert [episode.task for episode in episodes[:6]] == ["bridge", "comparison"] * 3
    played = play_gold(benchmark, episodes, max_steps=10)
    assert {(episode.stop, episode.success) for episode in played} == {("solved", True)}


def test_a_search_shows_the_paragraph_or_names_similar_titles(river):
    found = river.step("search  river LIND")
    assert found.observation == "The river Lind has trout. The river ends in Lake Vann. Eels live in it."
    assert river.step("search[River Lind]") == found
    missed = river.step("search river Lint")
    assert missed.observation == "Could not find river Lint. Similar: River Lind, River Lund, Long, Ostby."
    assert missed.valid
    assert river.step("search long").observation == "Sentence 1. Sentence 2. Sentence 3. Sentence 4. Sentence 5."


def test_a_lookup_goes_from_sentence_to_sentence(river):
    assert not river.step("lookup river").valid
    river.step("search River Lind")
    assert river.step("lookup River").observation == "(Result 1 / 2) The river Lind has trout."
    assert river.step("lookup river").observation == "(Result 2 / 2) The river ends in Lake Vann."
    ended = river.step("lookup river")
    assert (ended.observation, ended.valid) == ("No more results.", False)
    assert river.step("lookup eels").observation == "(Result 1 / 1) Eels live in it."
    assert river.step("lookup river").observation.startswith("(Result 1 / 2)")
    assert river.step("lookup pike").observation == "No results."


def test_an_answer_ends_the_game_with_its_f1(river):
    result = river.step("finish The Vann.")
    assert (result.done, result.success) == (True, False)
    assert result.progress == pytest.approx(2 / 3)
    after = river.step("finish Lake Vann")
    assert (after.valid, after.success, after.progress) == (False, False, result.progress)
    river.reset()
    assert river.step("finish[lake  vann]").success


def test_answers_are_scored_as_by_the_official_script():
    assert normalize_answer("The  Cat's, an apple!") == "cats apple"
    assert normalize_answer("the Eiffel-Tower") == normalize_answer("EiffelTower")
    assert f1_score("red big fox", "a big red dog") == pytest.approx(2 / 3)
    assert f1_score("yes", "yes it is") == f1_score("no it is", "no") == f1_score("", "x") == f1_score("the", "a") == 0
    assert f1_score("Yes.", "yes") == 1


def test_the_form_of_the_hub_reads_as_the_official_one(questions):
    columns = {
        **RIVER,
        "supporting_facts": {"title": ["Ostby", "River Lind"], "sent_id": [0, 1]},
        "context": {
            "title": [title for title, _ in RIVER["context"]],
            "sentences": [sentences for _, sentences in RIVER["context"]],
        },
    }
    official, hub = [(b := questions(row)).gold(b.episodes(1, 0)[0]) for row in (RIVER, columns)]
    assert official == hub == ["search Ostby", "search River Lind", "finish Lake Vann"]


def test_a_question_without_its_paragraph_has_no_solution(questions):
    benchmark = questions({**RIVER, "supporting_facts": [["Elsewhere", 0]]})
    with pytest.raises(NoSolutionError, match="no paragraph 'Elsewhere'"):
        benchmark.gold(benchmark.episodes(1, 0)[0])


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("{", "not_json", {"line": 1}),
        ("[]", "empty_file", {}),
        ("[3]", "bad_record", {"question": 1}),
        (json.dumps([RIVER | {"answer": ""}]), "missing_key", {"question": 1, "key": "answer"}),
        (json.dumps([without("answer")]), "missing_key", {"question": 1, "key": "answer"}),
        (json.dumps([without("context")]), "bad_record", {"question": 1, "key": "context"}),
        (json.dumps([RIVER | {"context": [["a"]]}]), "bad_record", {"question": 1, "key": ""}),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, code, values):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with refused(code, file=path, **values):
        HotpotQA(path).episodes(5, 0)


def test_a_byte_order_mark_and_lines_in_place_of_a_list_are_read(tmp_path):
    rows = [json.dumps({**RIVER, "_id": name}) for name in "ab"]
    for text in (f"\ufeff[{','.join(rows)}]", "\r\n".join(rows) + "\r\n\r\n"):
        (tmp_path / "q.json").write_bytes(text.encode())
        assert sorted(e.id for e in HotpotQA(tmp_path / "q.json").episodes(5, 0)) == ["hotpotqa.a", "hotpotqa.b"]


def test_a_missing_file_and_another_file_are_refused(questions):
    episode = HotpotQA().episodes(1, 0)[0]
    assert episode.id.startswith("hotpotqa.merrow-")
    with refused("episode_missing", name=episode.id):
        questions(RIVER).make(episode)
    with refused("file_missing", file=Path("nowhere.json")):
        HotpotQA(Path("nowhere.json")).episodes(5, 0)


def test_a_thousand_actions_at_random_are_answered_without_growth():
    rng = random.Random(5)
    benchmark = HotpotQA()
    environment = benchmark.make(benchmark.episodes(1, 0)[0])
    verbs = ["search ", "lookup ", "search[", "LOOKUP [", "seek "]
    words = ["Skerrow", "the", "Dunstan Oke", "lamp]", "]", "", *JUNK]
    actions = (rng.choice(verbs) + rng.choice(words) for _ in range(1_000))
    assert memory_growth(environment, actions, settled=200) < 50_000

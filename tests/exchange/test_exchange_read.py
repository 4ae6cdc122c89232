"""Other data sets as ours: the published format, AgentTraj, Agent-FLAN, AgentInstruct, general chat."""

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import agentrefine.files
from agentrefine.exchange.chats import ChatCounts, read_chat_records, read_chats
from agentrefine.exchange.export_formats import FORMATS
from agentrefine.exchange.read import SOURCES, ImportReport, import_chats
from agentrefine.exchange.write import export
from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import PublishedMessage, Sample
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.data import rendered_rows
from agentrefine.tuning.masking import apply_mask_policy
from flows.cli import main
from tests.helpers.commands import failure
from tests.helpers.errors import refused


def turn(sender: str, value: str, loss: bool | None = None) -> dict[str, Any]:
    return {"from": sender, "loss": loss, "value": value}


GAME = [
    turn("human", "You clean a house. Actions: open, wipe."),
    turn("gpt", "Ok.", loss=False),
    turn("human", "You stand in a kitchen."),
    turn("gpt", "Thought: the table first.\nAction: wipe chair", loss=False),
    turn("human", "There is no chair."),
    turn("gpt", "Thought: I meant the table.\nAction: wipe table", loss=True),
]
FLAN = [
    {"role": "system", "content": "You may call clock.", "loss": False},
    {"role": "user", "content": "What time is it?", "loss": False},
    {"role": "assistant", "content": "Action: clock", "loss": True},
    {"role": "user", "content": "Observation: noon", "loss": False},
    {"role": "assistant", "content": "It is noon.", "loss": True},
]
RECORDS: dict[str, list[dict[str, Any]]] = {
    "published": [{"id": "7", "conversations": GAME}],
    "agenttraj": [{"conversations": GAME, "item_id": "house_7"}],
    "agent-flan": [{"id": "clock_1", "conversation": FLAN}],
    "agentinstruct": [{"conversations": GAME, "id": "os_7"}],
    "sharegpt": [{"id": "a", "conversations": [turn("human", "Hi"), turn("gpt", "Hello")]}],
}
FLAGS = {
    "published": [False, False, True],
    "agenttraj": [False, False, True],
    "agent-flan": [True, True],
    "agentinstruct": [False, False, True],
    "sharegpt": [True],
}


def written(file: Path, values: list[dict[str, Any]]) -> Path:
    """The records as the ending says."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(values), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(values, indent=2), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return file


def imported(name: str, files: list[Path], out: Path, share: float = 0.0) -> tuple[ImportReport, list[Sample]]:
    report = import_chats(SOURCES[name], files, out, share, seed=7)
    return report, [s for split in ("train", "validation") for s in read_jsonl(out / f"{split}.jsonl", Sample)]


def chats(*conversations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": str(number), "conversations": list(c)} for number, c in enumerate(conversations)]


def texts(sample: Sample) -> list[str]:
    return [f"{m.from_}: {m.value}" for m in sample.conversations]


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("name", RECORDS)
def test_every_source_is_read_from_every_kind_of_file_with_its_ids_and_flags(tmp_path, name, ending):
    file = written(tmp_path / f"data.{ending}", RECORDS[name])
    report, (sample,) = imported(name, [file], tmp_path / "out")
    assert sample.id in ("7", "house_7", "clock_1", "os_7", "a")
    assert sample.persona_id == ""
    assert [m.from_ for m in sample.conversations] == ["human", "gpt"] * (len(sample.conversations) // 2)
    assert [m.loss for m in sample.conversations[1::2]] == FLAGS[name]
    assert [m.loss for m in sample.conversations[::2]] == [None] * len(FLAGS[name])
    assert (report.trained_turns, report.untrained_turns) == (FLAGS[name].count(True), FLAGS[name].count(False))
    assert json.loads((tmp_path / "out" / "import.json").read_text()) == report.model_dump()


def test_the_acknowledgement_and_the_mistake_of_an_imported_game_are_masked_as_ours_are(tmp_path):
    _, (sample,) = imported("agenttraj", [written(tmp_path / "a.json", RECORDS["agenttraj"])], tmp_path / "out")
    assert [m.loss for m in apply_mask_policy(sample.messages(), "correct_turns")][1::2] == [False, False, True]
    assert [m.loss for m in apply_mask_policy(sample.messages(), "with_erroneous_loss")][1::2] == [False, True, True]
    assert [m.loss for m in apply_mask_policy(sample.messages(), "without_refinement_loss")][1::2] == [
        False,
        False,
        False,
    ]
    cut = apply_mask_policy(sample.messages(), "without_refinement_data")
    assert [m.content for m in cut] == [GAME[i]["value"] for i in (0, 1, 2, 5)]


@pytest.mark.parametrize("name", RECORDS)
def test_an_imported_data_set_can_be_tuned_on(tmp_path, name):
    _, (sample,) = imported(name, [written(tmp_path / "a.json", RECORDS[name])], tmp_path / "out")
    tokenizer = build_tokenizer([], texts(sample))
    rows, counts = rendered_rows(tmp_path / "out" / "train.jsonl", tokenizer, "correct_turns", 8192, tmp_path / "cache")
    labels = [token for token in rows[0]["labels"] if token != -100]
    replies = [m.value for m in sample.conversations if m.loss]
    assert tokenizer.decode(labels) == "".join(reply + "<|end|>" for reply in replies)
    assert counts.samples == 1


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_our_own_data_set_comes_back_as_it_was_ids_included(tmp_path, ending):
    ours = [
        Sample(
            id=f"{number:x}",
            persona_id=f"p{number}",
            conversations=[PublishedMessage(from_=m["from"], value=m["value"] + "é\n", loss=m["loss"]) for m in GAME],
        )
        for number in range(20)
    ]
    write_jsonl(tmp_path / "data" / "train.jsonl", ours[:18])
    write_jsonl(tmp_path / "data" / "validation.jsonl", ours[18:])
    export(FORMATS["published"], tmp_path / "data", tmp_path / "exported", "correct_turns")
    files = []
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (tmp_path / "exported" / f"{split}.jsonl").read_text().splitlines()]
        files.append(written(tmp_path / f"{split}.{ending}", rows))
    _, back = imported("published", files, tmp_path / "back", share=0.2)
    assert sorted(back, key=lambda s: int(s.id, 16)) == ours


def test_general_chat_is_read_in_both_spellings_and_every_reply_is_trained(tmp_path):
    role = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    file = written(tmp_path / "chat.jsonl", [{"id": 3, "conversations": [*GAME[:1], turn("gpt", "Fine.")]}])
    with file.open("a") as handle:
        handle.write(json.dumps({"messages": role}) + "\n\n" + json.dumps({"messages": role[:1] * 2 + role[1:]}) + "\n")
    first, second, third = read_chats(file)
    assert first.id == "3"
    assert texts(second) == ["human: Hi", "gpt: Hello"]
    assert texts(third) == ["human: Hi\n\nHi", "gpt: Hello"]
    assert second.id != third.id
    assert all(m.loss for s in (first, second, third) for m in s.messages() if m.role == "assistant")


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        (
            [turn("system", "Be kind."), *GAME[:1], turn("gpt", "a")],
            ["human: Be kind.\n\n" + GAME[0]["value"], "gpt: a"],
        ),
        ([turn("gpt", "cut off"), turn("human", "q"), turn("gpt", "a")], ["human: q", "gpt: a"]),
        ([turn("human", "q"), turn("gpt", "a"), turn("human", "bye")], ["human: q", "gpt: a"]),
        ([turn("human", "q"), turn("gpt", "a"), turn("gpt", "b", loss=True)], ["human: q", "gpt: a\n\nb"]),
        ([turn("human", "q"), turn("human", " "), turn("assistant", "a")], ["human: q", "gpt: a"]),
        ([turn("User", "q"), turn("chatgpt", "a")], ["human: q", "gpt: a"]),
    ],
)
def test_turns_become_human_and_gpt_in_turn(tmp_path, conversation, expected):
    (sample,) = read_chats(written(tmp_path / "chat.json", chats(conversation)))
    assert texts(sample) == expected


@pytest.mark.parametrize(
    ("conversation", "rule"),
    [
        ([turn("human", "q"), turn("tool", "42"), turn("gpt", "a")], "a role other than human, gpt and system"),
        ([turn("human", "q"), turn("gpt", "a", loss=False)], "nothing is trained"),
        ([turn("human", "q")], "nothing is trained"),
        ([turn("gpt", "a")], "nothing is trained"),
        ([], "nothing is trained"),
        ([turn("human", "q"), turn("gpt", " \n")], "an empty reply that is trained"),
        (
            [turn("human", "q"), {"from": "gpt", "value": None}],
            "a message that is not text (a picture, a call of a tool)",
        ),
        ([turn("human", "q"), turn("gpt", "a \ud800")], "a text with half of a surrogate pair"),
        (
            [turn("human", "q"), turn("gpt", "a", loss=False), turn("gpt", "b")],
            "gpt messages in a row of which only some are trained",
        ),
    ],
)
def test_what_cannot_be_a_sample_is_dropped_and_counted_by_rule(tmp_path, conversation, rule):
    file = written(tmp_path / "chat.json", chats(conversation, GAME))
    counts = ChatCounts()
    assert [s.id for s in read_chats(file, counts=counts)] == ["1"]
    assert counts.dropped == {rule: 1}
    report, _ = imported("sharegpt", [file], tmp_path / "out")
    assert (report.read, report.kept, report.dropped) == (2, 1, {rule: 1})
    assert f"dropped: 1 ({rule})" in report.sentence()


def test_the_same_chat_is_kept_once_and_another_attempt_at_its_task_stays(tmp_path):
    first, other = RECORDS["agenttraj"][0], {"item_id": "house_7", "conversations": GAME[:4] + GAME[2:]}
    file = written(tmp_path / "a.json", [first, other])
    report, samples = imported("agenttraj", [file, file], tmp_path / "out")
    assert [s.id for s in samples] == ["house_7", "house_7"]
    assert report.dropped == {"the same chat again": 2}


def test_the_choice_of_validation_samples_depends_on_ids_and_seed_only(tmp_path):
    values = [
        {"id": f"task {number % 1000}", "conversations": [turn("human", f"{number}"), *GAME[1:]]}
        for number in range(2000)
    ]
    one, two = written(tmp_path / "one.jsonl", values), written(tmp_path / "two.jsonl", values[::-1])

    def held_out(file: Path, out: str, seed: int) -> set[str]:
        import_chats(SOURCES["published"], [file], tmp_path / out, 0.1, seed)
        split = {s: {x.id for x in read_jsonl(tmp_path / out / f"{s}.jsonl", Sample)} for s in ("train", "validation")}
        assert not split["train"] & split["validation"]
        return split["validation"]

    chosen = held_out(one, "a", 7)
    assert 70 < len(chosen) < 130
    assert chosen == held_out(two, "b", 7)
    assert chosen != held_out(one, "c", 8)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_a_list_is_read_the_same_whatever_is_read_at_once(tmp_path, monkeypatch, chunk):
    draw = random.Random(chunk)
    values = [
        {"id": n, "x": ['a"]},{[é\\', {"y": [draw.random() * 10**n, None, True]}] * draw.randrange(4)}
        for n in range(30)
    ]
    file = tmp_path / "list.json"
    monkeypatch.setattr(agentrefine.files, "CHUNK", chunk)
    for text in (json.dumps(values), json.dumps(values, indent=3, ensure_ascii=False), "\ufeff [ ]\n"):
        file.write_text(text, encoding="utf-8")
        assert [r.value for r in read_chat_records(file)] == json.loads(text.lstrip("\ufeff"))


def test_an_element_without_end_is_given_up_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(agentrefine.files, "CHUNK", 100)
    monkeypatch.setattr(agentrefine.files, "MAX_ELEMENT", 1000)
    (tmp_path / "a.json").write_text('[{"id": "' + "x" * 1_000_000)
    tracemalloc.start()
    with refused("not_json", file=tmp_path / "a.json", element=1):
        list(read_chat_records(tmp_path / "a.json"))
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


def test_memory_does_not_grow_with_the_list(tmp_path):
    file = tmp_path / "large.json"
    value = json.dumps({"id": "x", "conversations": [turn("human", "word " * 2000), turn("gpt", "yes")]})
    file.write_text("[" + ",\n".join([value] * 3000) + "]")
    assert file.stat().st_size > 30e6
    tracemalloc.start()
    count = sum(1 for _ in read_chats(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3000
    assert peak < 10e6


GOOD = json.dumps({"id": "1", "conversations": GAME})


@pytest.mark.parametrize(
    ("name", "text", "place", "code", "values"),
    [
        ("a.jsonl", GOOD + "\n{broken\n", ", line 2", "not_json", {"line": 2}),
        ("a.jsonl", GOOD + "\n\n3\n", ", line 3", "bad_record", {"expected": "'conversations' or 'messages'"}),
        ("a.json", f"[{GOOD}, {{broken]", ", element 2", "not_json", {"element": 2}),
        ("a.json", f"[{GOOD}, {GOOD[:-9]}", ", element 2", "not_json", {"element": 2}),
        ("a.json", f"[{GOOD} {GOOD}]", "", "not_json", {"found": "{", "expected": ","}),
        ("a.json", f"[{GOOD}", "", "not_json", {"found": "", "expected": ","}),
        ("a.json", f"[{GOOD}, {'[' * 100_000}", ", element 2", "not_json", {"element": 2}),
        ("a.json", f"[{GOOD}, {'1' * 5000}]", ", element 2", "not_json", {"element": 2}),
        (
            "a.json",
            '[{"id": 1, "text": "x"}]',
            ", element 1",
            "bad_record",
            {"expected": "'conversations' or 'messages'"},
        ),
        ("a.json", '[{"conversations": ["hi"]}]', ", element 1, message 1", "bad_record", {"expected": "object"}),
        (
            "a.json",
            '[{"conversations": [{"from": "human"}]}]',
            ", element 1, message 1",
            "bad_record",
            {"keys": ["from", "value"]},
        ),
        (
            "a.json",
            '[{"messages": [{"role": 1, "content": ""}]}]',
            ", element 1, message 1",
            "bad_record",
            {"keys": ["role", "content"]},
        ),
        (
            "a.json",
            '[{"conversations": [{"from": "gpt", "value": "a", "loss": 0.5}]}]',
            ", element 1, message 1",
            "bad_value",
            {"key": "loss", "found": "0.5"},
        ),
        ("a.parquet", "no parquet", "", "not_parquet", {}),
    ],
)
def test_the_sentence_about_a_broken_file_begins_with_its_place_and_nothing_is_left(
    tmp_path, name, text, place, code, values
):
    (tmp_path / name).write_text(text)
    with refused(code, **values) as caught:
        import_chats(SOURCES["sharegpt"], [tmp_path / name], tmp_path / "out", 0.0, 7)
    assert str(caught.value).startswith(f"{tmp_path / name}{place}: ")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_file_in_another_encoding_is_refused(tmp_path, name):
    text = json.dumps(chats([*GAME, turn("human", "é")])[0], ensure_ascii=False)
    (tmp_path / name).write_bytes((f"[{text}]" if name == "a.json" else text).encode("latin-1"))
    with refused("not_utf8", file=tmp_path / name):
        list(read_chats(tmp_path / name))


def test_a_missing_file_nothing_to_train_on_a_bad_share_and_a_taken_folder_are_refused(tmp_path):
    file = written(tmp_path / "a.json", chats(GAME))
    with refused("file_missing", file=tmp_path / "b.json"):
        imported("published", [tmp_path / "b.json"], tmp_path / "out")
    with refused("bad_value", key="--validation-share", value=1.5):
        imported("published", [file], tmp_path / "out", share=1.5)
    with refused("nothing_to_train", file=tmp_path / "c.json", read=1, kept=0):
        imported("published", [written(tmp_path / "c.json", chats(GAME[:2]))], tmp_path / "out")
    with refused("already_exists", file=tmp_path):
        imported("published", [file], tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_command_reads_several_files_into_one_data_set(tmp_path, capsys):
    files = [written(tmp_path / f"{n}.json", [{"item_id": f"t{n}", "conversations": GAME}]) for n in range(3)]
    main(["import", "agenttraj", *map(str, files), str(tmp_path / "out")])
    assert "read 3 chats, kept 3 (3 for training, 0 for validation) with 3 trained" in capsys.readouterr().out
    error = failure("import", "agent-flan", *map(str, files), str(tmp_path / "flan"))
    assert (error.code, error.values["place"]) == ("bad_record", f"{files[0]}, element 1")

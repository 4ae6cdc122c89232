"""What a data set does not train is not trained after its import, and whatever an import leaves out is reported."""

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrefine.exchange.chats import ChatCounts, read_chats
from agentrefine.exchange.export_formats import FORMATS
from agentrefine.exchange.import_flags import DETAILS, FLAGS, OPPOSITE_FLAGS
from agentrefine.exchange.mix import mix
from agentrefine.exchange.read import SOURCES, import_chats
from agentrefine.exchange.write import export
from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import Message, PublishedMessage, Sample
from agentrefine.params.tuning import MaskPolicy
from agentrefine.tuning.masking import apply_mask_policy
from flows.cli import main
from tests.exchange.test_exchange_read import imported, turn, written
from tests.helpers.errors import refused
from tests.helpers.paths import SHARED

CASES = SHARED / "cases" / "chats"


def chat(*flags: dict[str, Any]) -> dict[str, Any]:
    """A chat with one reply for each set of flags."""
    messages: list[dict[str, Any]] = []
    for number, flag in enumerate(flags):
        messages.append({"role": "user", "content": f"question {number}"})
        messages.append({"role": "assistant", "content": f"answer {number}", **flag})
    return {"messages": messages}


def losses(tmp_path: Path, value: dict[str, Any], name: str = "sharegpt") -> list[bool | None]:
    _, (sample,) = imported(name, [written(tmp_path / "a.json", [value])], tmp_path / "out")
    return [m.loss for m in sample.conversations[1::2]]


@pytest.mark.parametrize("name", ["sharegpt", "openai", "axolotl", "llamafactory-v1", "trl"])
@pytest.mark.parametrize("key", [*FLAGS, *OPPOSITE_FLAGS])
def test_every_flag_is_read_by_every_format_of_messages(tmp_path, key, name):
    value = chat({key: False}, {key: 1.0}, {key: 0}, {key: None}, {}, {key: True})
    as_said = [False, True, False, True, True, True]
    opposite = [True, False, True, True, True, False]
    assert losses(tmp_path, value, name) == (opposite if key in OPPOSITE_FLAGS else as_said)


@pytest.mark.parametrize("key", DETAILS)
@pytest.mark.parametrize(
    ("ranges", "trained"),
    [
        ([(0, 7, True)], True),
        ([(0, 5, True), (7, 7, True)], True),
        ([(0, 99, True), (0, 2, False)], True),
        ([(0, 7, False)], False),
        ([], False),
    ],
)
def test_ranges_that_train_all_or_nothing_of_a_reply_are_read(tmp_path, key, ranges, trained):
    detail = [{"begin_offset": begin, "end_offset": end, "train": train} for begin, end, train in ranges]
    assert losses(tmp_path, chat({key: detail}, {"train": True})) == [trained, True]
    (tmp_path / "again").mkdir()
    assert losses(tmp_path / "again", chat({key: detail, "train": False}, {})) == [False, True]


def test_a_reply_that_is_trained_in_part_drops_its_chat(tmp_path):
    detail = [{"begin_offset": 0, "end_offset": 5, "train": True}]
    file = written(
        tmp_path / "a.json", [chat({"train_detail": detail}), chat({"train_detail": detail, "train": 0}, {})]
    )
    counts = ChatCounts()
    assert len(list(read_chats(file, counts=counts))) == 1
    assert counts.dropped == {"a reply of which only a part is trained": 1}


@pytest.mark.parametrize(
    ("flags", "code", "values"),
    [
        ({"supervise": True}, "unknown_key", {"key": "supervise"}),
        ({"mask": 1}, "unknown_key", {"key": "mask"}),
        ({"weight": 0.5}, "bad_value", {"key": "weight", "found": "0.5"}),
        ({"train": "false"}, "bad_value", {"key": "train", "found": "'false'"}),
        ({"loss": False, "weight": 1}, "flags_contradict", {"keys": ["loss", "weight"]}),
        ({"train_detail": [{"begin": 0}]}, "bad_value", {"key": "train_detail"}),
        ({"train_detail": "all"}, "bad_value", {"key": "train_detail"}),
    ],
)
def test_a_flag_that_is_not_known_or_says_something_else_is_refused_by_name(tmp_path, flags, code, values):
    file = written(tmp_path / "a.json", [chat(flags)])
    with refused(code, place=f"{file}, element 1, message 2", **values):
        import_chats(SOURCES["sharegpt"], [file], tmp_path / "out", 0.0, 7)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["weight", "train", "loss_mask", "masked", "sample_weight", "train-detail", "mask"])
def test_a_flag_of_a_whole_chat_is_refused_by_name(tmp_path, key):
    file = written(tmp_path / "a.json", [chat({}) | {key: 0.5}])
    with refused("unknown_key", place=f"{file}, element 1", key=key):
        list(read_chats(file))


def test_a_key_is_ignored_and_counted_when_the_user_says_so(tmp_path, capsys):
    file = written(tmp_path / "a.json", [chat({"rank": 3, "weight": 0.5}, {}) | {"mask": "x"}])
    ignored = [part for key in ("rank", "weight", "mask") for part in ("--ignore", key)]
    main(["import", "sharegpt", str(file), str(tmp_path / "out"), "--validation-share", "0", *ignored])
    printed = capsys.readouterr().out
    for key in ("rank", "weight", "mask"):
        assert f"left out: 1 ({key}: " in printed
    assert "with 2 trained and 0 untrained turns" in printed


def test_a_flag_of_a_human_message_is_never_a_reason_to_train_it(tmp_path):
    value = {
        "messages": [
            {"role": "user", "content": "q", "train": True},
            {"role": "assistant", "content": "a", "train": False},
            {"role": "user", "content": "r", "train": False},
            {"role": "assistant", "content": "b"},
        ]
    }
    report, (sample,) = imported("axolotl", [written(tmp_path / "a.json", [value])], tmp_path / "out")
    assert [m.loss for m in sample.conversations] == [None, False, None, True]
    assert report.left_out == {"the flag that trains a message of human: only replies are trained": 1}


def test_a_prompt_is_context_and_its_completion_is_trained(tmp_path):
    def said(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    value = {
        "prompt": [said("system", "Be kind."), said("user", "q"), said("assistant", "a"), said("user", "r")],
        "completion": [said("assistant", "b")],
    }
    _, (sample,) = imported("trl", [written(tmp_path / "a.json", [value])], tmp_path / "out")
    assert [(m.value, m.loss) for m in sample.conversations] == [
        ("Be kind.\n\nq", None), ("a", False), ("r", None), ("b", True),
    ]  # fmt: skip


def test_tokens_without_messages_are_refused_because_their_turns_cannot_be_read(tmp_path):
    pq.write_table(
        pa.Table.from_pylist([{"id": "1", "input_ids": [1, 2], "labels": [-100, 2]}]), tmp_path / "a.parquet"
    )
    for name in ("trl", "sharegpt"):
        with refused("bad_record", place=f"{tmp_path / 'a.parquet'}, row 1", key="input_ids"):
            imported(name, [tmp_path / "a.parquet"], tmp_path / "out")


def test_the_setting_mask_history_beside_a_file_or_in_a_record_trains_the_last_message_only(tmp_path):
    talk = [turn("human", "q"), turn("gpt", "a"), turn("human", "r"), turn("gpt", "b")]
    file = written(tmp_path / "a.json", [{"conversations": talk}])

    def flags(name: str) -> list[bool | None]:
        (sample,) = read_chats(file, SOURCES[name])
        return [m.loss for m in sample.conversations[1::2]]

    assert flags("sharegpt") == [True, True]
    assert flags("llamafactory") == [False, True]
    (tmp_path / "llamafactory.yaml").write_text("mask_history: true\n")
    assert flags("sharegpt") == [False, True]
    written(file, [{"conversations": talk, "mask_history": False}])
    assert flags("sharegpt") == [True, True]
    (tmp_path / "llamafactory.yaml").unlink()
    written(file, [{"conversations": talk, "mask_history": True}])
    assert flags("sharegpt") == [False, True]


@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_a_system_text_beside_the_messages_is_kept_as_other_system_messages_are(tmp_path, key):
    talk = [turn("human", "q"), turn("gpt", "a")]
    values = [
        {"conversations": talk, key: "Be kind."},
        {"conversations": [turn("system", "Be kind."), *talk], key: "Be kind."},
    ]
    report, samples = imported("sharegpt", [written(tmp_path / "a.json", values)], tmp_path / "out")
    assert [s.conversations[0].value for s in samples] == ["Be kind.\n\nq"]
    assert report.dropped == {"the same chat again": 1}
    assert report.left_out == {}
    with refused("bad_value", place=f"{tmp_path / 'b.json'}, element 1", key=key, found="['x']"):
        list(read_chats(written(tmp_path / "b.json", [{"conversations": talk, key: ["x"]}])))


def test_whatever_is_left_out_of_a_chat_is_counted_by_key_and_reason(tmp_path):
    talk = [
        turn("gpt", "cut off"),
        turn("human", "q") | {"timestamp": 3, "name": None},
        turn("human", " "),
        turn("gpt", "a") | {"reasoning_content": "hm", "tool_calls": []},
        turn("human", "bye"),
    ]
    values = [{"conversations": talk, "tools": "[]", "source": "x", "empty": [], "nothing": None} for _ in range(2)]
    values[1]["id"] = "2"
    report, samples = imported("sharegpt", [written(tmp_path / "a.json", values)], tmp_path / "out")
    assert report.left_out == {
        "a message of gpt: it stands before the first human message": 2,
        "a message of human: it is empty": 2,
        "a message of human: no reply follows it": 2,
        "reasoning_content: a key of a message, and a sample has no place for it": 2,
        "source: beside the messages, and a sample has no place for it": 2,
        "timestamp: a key of a message, and a sample has no place for it": 2,
        "tools: beside the messages, and a sample has no place for it": 2,
    }
    assert len(samples) == 2
    assert "left out: 2 (tools: beside the messages, and a sample has no place for it)" in report.sentence()


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (chat({}) | {"label": False}, "an answer that is not wanted (label false)"),
        (chat({}) | {"kto_tag": False}, "an answer that is not wanted (label false)"),
        (chat({}) | {"images": ["a.png"]}, "a message that is not text (a picture, a call of a tool)"),
        (chat({"tool_calls": [{"id": 1}]}), "a message that is not text (a picture, a call of a tool)"),
    ],
)
def test_a_chat_that_is_not_what_its_texts_say_is_dropped(tmp_path, value, rule):
    counts = ChatCounts()
    assert list(read_chats(written(tmp_path / "a.json", [value]), counts=counts)) == []
    assert counts.dropped == {rule: 1}


def test_a_text_in_parts_is_read(tmp_path):
    for part in ("text", "value"):
        value = chat({})
        value["messages"][1]["content"] = [{"type": "text", part: "one "}, {"type": "text", part: "two"}]
        (sample,) = read_chats(written(tmp_path / f"{part}.json", [value]))
        assert sample.conversations[1].value == "one two"
    value["messages"][1]["content"].append({"type": "image_url", "image_url": {}})
    assert list(read_chats(written(tmp_path / "c.json", [value]))) == []


def test_a_mix_keeps_the_flags_of_its_chats_and_counts_what_they_lost(tmp_path):
    game = Sample(
        id="g",
        persona_id="",
        conversations=[PublishedMessage(from_=s, value="x", loss=f) for s, f in (("human", None), ("gpt", True))],
    )
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "games" / f"{split}.jsonl", [game])
    file = written(tmp_path / "chat.json", [chat({"weight": 0}, {"weight": 1}) | {"tools": "t", "rank": 1}])
    counts = mix(tmp_path / "games", file, 0.5, 7, tmp_path / "out", ["rank"])
    (chosen,) = [s for s in read_jsonl(tmp_path / "out" / "train.jsonl", Sample) if s.id != "g"]
    assert [m.loss for m in chosen.conversations[1::2]] == [False, True]
    assert list(counts.parts_left_out) == [
        "rank: a key to ignore",
        "tools: beside the messages, and a sample has no place for it",
    ]


@pytest.mark.skipif(not CASES.is_dir(), reason="the failing inputs are not beside the repository")
@pytest.mark.parametrize("name", ["openai_weight.jsonl", "axolotl_train.jsonl"])
def test_the_turns_that_a_reported_file_excludes_are_not_trained(name):
    (sample,) = read_chats(CASES / name)
    assert [m.value.split(":")[0] for m in sample.conversations if m.loss] == ["RIGHT"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
GAMES = st.lists(
    st.tuples(st.booleans(), st.lists(st.tuples(TEXT, TEXT, st.booleans()), min_size=1, max_size=6)),
    min_size=1,
    max_size=4,
)
"""Games: whether they begin with an acknowledgement; of each turn what is asked, what is answered, if it is right."""


def samples_of(games: list[Any]) -> list[Sample]:
    samples = []
    for number, (acknowledged, turns) in enumerate(games):
        messages = [("human", f"Game {number}", None), ("gpt", "OK.", False)] if acknowledged else []
        for asked, answered, right in turns:
            messages += [("human", asked, None), ("gpt", answered, right)]
        messages[0] = ("human", f"Game {number} {messages[0][1]}", None)
        conversations = [PublishedMessage(from_=sender, value=text, loss=loss) for sender, text, loss in messages]
        samples.append(Sample(id=f"{number:x}", persona_id=f"p{number}", conversations=conversations))
    return samples


def trained(messages: list[Message]) -> list[tuple[str, str]]:
    """Each trained reply, after all that came before it."""
    return [
        ("\0".join(f"{m.role}\1{m.content}" for m in messages[:index]), message.content)
        for index, message in enumerate(messages)
        if message.role == "assistant" and message.loss
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(games=GAMES)
@pytest.mark.parametrize("policy", get_args(MaskPolicy))
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", ["itself", "sharegpt"])
def test_what_is_exported_and_imported_again_trains_the_same_turns(tmp_path_factory, name, policy, source, games):
    folder = tmp_path_factory.mktemp("trip")
    samples = samples_of(games)
    write_jsonl(folder / "data" / "train.jsonl", samples)
    write_jsonl(folder / "data" / "validation.jsonl", [])
    ours = [pair for sample in samples for pair in trained(apply_mask_policy(sample.messages(), policy))]
    if not ours:
        with refused("nothing_to_train", file=folder / "data" / "train.jsonl"):
            export(FORMATS[name], folder / "data", folder / "out", policy)
        return
    export(FORMATS[name], folder / "data", folder / "out", policy)
    report, back = imported(name if source == "itself" else source, [folder / "out" / "train.jsonl"], folder / "back")
    assert Counter(
        p for sample in back for p in trained(apply_mask_policy(sample.messages(), "correct_turns"))
    ) == Counter(ours)
    assert report.dropped == {}
    assert report.left_out == {}
    if name == "llamafactory":
        assert [sample.id for sample in back] == [
            i for i, _ in groupby(s.id for s in samples if trained(apply_mask_policy(s.messages(), policy)))
        ]

"""Rendering: what a conversation trains, token by token."""

from typing import get_args

import pytest
from transformers import PreTrainedTokenizerFast

from agentrefine.game.conversation import Message, opening, reply_text
from agentrefine.params.tuning import MaskPolicy
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.chat_template import MASKED, end_of_turn_id, prompt_ids, render
from agentrefine.tuning.masking import apply_mask_policy
from flows.show_mask import colour, parts
from tests.helpers.errors import refused

EXPERT_1 = reply_text("the key is in the box, so i open it", "open box")
MISTAKE_1 = reply_text("the lamp is here", "take lamp")
MISTAKE_2 = reply_text("the lamp is on the table", "take lamp from table")
REFINE = reply_text("that failed: the lamp is not here. i take the key", "take key")
EXPERT_2 = reply_text("now i am done", "stop")

CONVERSATION = [
    *opening("You play a game.", "take key.", "you are in hall."),
    Message(role="assistant", content=EXPERT_1, loss=True),
    Message(role="user", content="the box is open."),
    Message(role="assistant", content=MISTAKE_1, loss=False),
    Message(role="user", content="the lamp is not here."),
    Message(role="assistant", content=MISTAKE_2, loss=False),
    Message(role="user", content="the table is not here."),
    Message(role="assistant", content=REFINE, loss=True),
    Message(role="user", content="you have the key."),
    Message(role="assistant", content=EXPERT_2, loss=True),
]

TRAINED: dict[MaskPolicy, list[str]] = {
    "correct_turns": [EXPERT_1, REFINE, EXPERT_2],
    "with_erroneous_loss": [EXPERT_1, MISTAKE_1, MISTAKE_2, REFINE, EXPERT_2],
    "without_refinement_loss": [EXPERT_1, EXPERT_2],
    "without_refinement_data": [EXPERT_1, REFINE, EXPERT_2],
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(["lamp", "key", "box", "open", "take"], [m.content for m in CONVERSATION] * 5)


@pytest.mark.parametrize("train_on", get_args(MaskPolicy))
def test_trained_spans_are_the_assistants_texts_with_their_end_of_turn(tokenizer, train_on):
    rendered = render(tokenizer, CONVERSATION, train_on)
    trained = [tokenizer.decode(rendered.ids[s.start : s.end]) for s in rendered.spans if s.trained]
    assert trained == [f"{text}<|end|>" for text in TRAINED[train_on]]


@pytest.mark.parametrize("train_on", get_args(MaskPolicy))
def test_every_token_is_trained_exactly_inside_trained_spans(tokenizer, train_on):
    rendered = render(tokenizer, CONVERSATION, train_on)
    inside = {i for s in rendered.spans if s.trained for i in range(s.start, s.end)}
    assert len(rendered.labels) == len(rendered.ids)
    for i, (token, label) in enumerate(zip(rendered.ids, rendered.labels, strict=True)):
        assert label == (token if i in inside else MASKED)
    assert rendered.trained_tokens == len(inside)


def test_mistakes_stay_in_the_context_unless_cut_out(tokenizer):
    for train_on in get_args(MaskPolicy):
        text = tokenizer.decode(render(tokenizer, CONVERSATION, train_on).ids)
        assert (MISTAKE_1 in text) == (train_on != "without_refinement_data")
        assert ("the lamp is not here." + "<|end|>" in text) == (train_on != "without_refinement_data")


def test_cutting_mistakes_out_keeps_the_observation_before_them():
    cut = apply_mask_policy(CONVERSATION, "without_refinement_data")
    assert [m.role for m in cut] == ["user", "assistant"] + ["user", "assistant"] * (len(cut) // 2 - 1)
    before = next(i for i, m in enumerate(cut) if m.content == REFINE) - 1
    assert cut[before].content == "the box is open."


def test_a_mistake_at_the_end_is_cut_with_nothing_left_behind():
    cut = apply_mask_policy([*CONVERSATION[:4], *CONVERSATION[4:6]], "without_refinement_data")
    assert cut[-1].content == EXPERT_1


def all_trained(messages: list[Message]) -> list[Message]:
    return [m.model_copy(update={"loss": True}) if m.role == "assistant" else m for m in messages]


def test_the_acknowledgement_is_never_trained(tokenizer):
    eager = [*CONVERSATION[:3], *all_trained(CONVERSATION[3:])]
    for train_on in get_args(MaskPolicy):
        rendered = render(tokenizer, eager, train_on)
        assert not rendered.spans[0].trained
        assert tokenizer.decode(rendered.ids[rendered.spans[0].start]) == "OK"


@pytest.mark.parametrize("flag", [True, None])
def test_a_first_reply_that_is_not_marked_is_a_turn_like_any_other(tokenizer, flag):
    chat = [m if m.role == "user" else m.model_copy(update={"loss": flag}) for m in CONVERSATION]
    for train_on in get_args(MaskPolicy):
        rendered = render(tokenizer, chat, train_on)
        assert [span.trained for span in rendered.spans] == [True] * 6


def test_a_correction_in_a_chat_without_acknowledgement_is_found_by_the_mistake_before_it():
    chat = [*CONVERSATION[2:6], *CONVERSATION[8:10]]
    assert [m.loss for m in apply_mask_policy(chat, "correct_turns") if m.role == "assistant"] == [True, False, True]
    assert [m.loss for m in apply_mask_policy(chat, "without_refinement_loss")][1::2] == [True, False, False]
    assert [m.content for m in apply_mask_policy(chat, "without_refinement_data")][1::2] == [EXPERT_1, REFINE]
    assert [m.loss for m in apply_mask_policy(chat, "with_erroneous_loss")][1::2] == [True, True, True]


def test_a_prefix_of_the_conversation_is_a_prefix_of_the_tokens(tokenizer):
    full = render(tokenizer, CONVERSATION, "correct_turns").ids
    for i, message in enumerate(CONVERSATION):
        if message.role == "assistant":
            prompt = prompt_ids(tokenizer, CONVERSATION[:i])
            assert full[: len(prompt)] == prompt
            shorter = render(tokenizer, CONVERSATION[: i + 1], "correct_turns").ids
            assert full[: len(shorter)] == shorter


def test_whole_turns_are_dropped_from_the_end_and_counted(tokenizer):
    full = render(tokenizer, CONVERSATION, "correct_turns")
    ends = [span.end for span in full.spans]
    for limit in range(ends[0], ends[-1] + 1):
        cut = render(tokenizer, CONVERSATION, "correct_turns", max_length=limit)
        assert len(cut.ids) == max(end for end in ends if end <= limit)
        assert cut.dropped_turns == sum(end > limit for end in ends)
        assert cut.ids == full.ids[: len(cut.ids)]
        assert cut.labels == full.labels[: len(cut.ids)]
    assert render(tokenizer, CONVERSATION, "correct_turns", max_length=3).ids == []


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ messages[-1].content }}{{ eos_token }}", "rewrites_user"),
        ("{% for m in messages %}{{ m.content }} {% endfor %}", "no_end_of_turn"),
        (
            "{% for m in messages %}{% if loop.last %}<last>{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}",
            "rewrites_earlier_message",
        ),
        ("{{ raise_exception('roles must alternate') }}", "fails"),
        ("{% for m in messages %}{{ m.content }}", "fails"),
    ],
)
def test_a_template_that_breaks_the_prefix_or_the_end_of_turn_is_refused(tokenizer, template, fault):
    broken = build_tokenizer(["lamp"], [])
    broken.chat_template = template
    with refused("template_untrainable", fault=fault):
        render(broken, CONVERSATION, "correct_turns")


def test_a_token_across_the_border_of_prompt_and_reply_is_refused(tokenizer):
    broken = build_tokenizer([], ["xThought: a"] * 9)
    broken.chat_template = (
        "{% for m in messages %}{{ 'x' if m.role == 'assistant' }}{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}x{% endif %}"
    )
    with refused("template_untrainable", fault="token_crosses_border"):
        render(broken, CONVERSATION, "correct_turns")


def test_templates_that_write_space_before_or_after_the_text_train_it_with_the_end(tokenizer):
    spaced = build_tokenizer(["lamp"], [])
    spaced.chat_template = (
        "{% for m in messages %}{{ '[' ~ m.role ~ ']\n' ~ m.content ~ eos_token ~ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}"
    )
    rendered = render(spaced, CONVERSATION, "correct_turns")
    trained = [spaced.decode(rendered.ids[s.start : s.end]) for s in rendered.spans if s.trained]
    assert trained == [f"{text}<|end|>" for text in TRAINED["correct_turns"]]


def test_the_end_of_turn_is_what_generation_stops_at(tokenizer):
    assert end_of_turn_id(tokenizer) == tokenizer.eos_token_id


def test_special_tokens_inside_a_text_do_not_shorten_its_turn(tokenizer):
    hostile = [*CONVERSATION[:3], Message(role="assistant", content="open <|end|> box", loss=True)]
    rendered = render(tokenizer, hostile, "correct_turns")
    last = rendered.spans[-1]
    assert tokenizer.decode(rendered.ids[last.start : last.end]) == "open <|end|> box<|end|>"


def test_the_shown_mask_holds_the_whole_sample_in_three_styles(tokenizer):
    rendered = render(tokenizer, CONVERSATION, "correct_turns")
    shown = colour(tokenizer, parts(rendered), marks=False)
    assert shown.plain.replace("\n", "") == tokenizer.decode(rendered.ids).replace("\n", "")
    assert len({str(span.style) for span in shown.spans}) == 3

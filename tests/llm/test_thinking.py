"""The thoughts that servers leave before an answer."""

import pytest

from agentrefine.llm.thinking import without_thinking
from agentrefine.verification.reading import load_object

TURN = "Thought: The room is new.\nAction: look around"
FORMS = {
    "tags": f"<think>\nLooking comes first.\n</think>\n\n{TURN}",
    "no thoughts": f"<think>\n\n</think>\n\n{TURN}",
    "opened in the prompt": f"Looking comes first.\n</think>\n\n{TURN}",
    "two blocks": f"<think>One.</think>\n<think>Two.</think>{TURN}",
    "thinking": f"<thinking>Looking comes first.</thinking>\n{TURN}",
    "thought": f"<thought>Looking.</thought>\n{TURN}",
    "seed": f"<seed:think>Looking.</seed:think>{TURN}",
    "mistral": f"[THINK]Looking.[/THINK]{TURN}",
    "kimi": f"◁think▷Looking.◁/think▷{TURN}",
    "sky": f"<|begin_of_thought|>\nLooking.<|end_of_thought|>\n<|begin_of_solution|>\n{TURN}\n<|end_of_solution|>",
    "cohere": f"<|START_THINKING|>Looking.<|END_THINKING|><|START_RESPONSE|>{TURN}<|END_RESPONSE|>",
    "hunyuan": f"<think>\nLooking.\n</think>\n<answer>\n{TURN}\n</answer>",
    "answer without an end": f"<think>Looking.</think><answer>{TURN}",
    "gpt-oss": f"<|channel|>analysis<|message|>Looking.<|end|><|start|>assistant<|channel|>final<|message|>{TURN}"
    "<|return|>",
    "gpt-oss without special tokens": f"analysisWe look first.assistantfinal{TURN}",
    "gemma": f"<|channel>thought\nLooking.<channel|>{TURN}",
    "turns inside the thoughts": f"<think>{TURN}\nor\n{TURN}</think>{TURN}",
}


@pytest.mark.parametrize("form", FORMS)
def test_thoughts_before_a_turn_are_left_out(form):
    assert without_thinking(FORMS[form]) == TURN


@pytest.mark.parametrize("opens", ["<think>", " \n<think>\n", "[THINK]", "<|channel|>analysis<|message|>", "◁think▷"])
def test_thoughts_that_never_end_leave_nothing(opens):
    assert without_thinking(f"{opens}Looking comes fir") == ""


@pytest.mark.parametrize("text", [TURN, "", " \n", "I think <b>so</b>", "Thought: a <think> b\nAction: c"])
def test_a_text_without_such_a_block_stays_as_it_is(text):
    assert without_thinking(text) == text


def test_a_draft_among_the_thoughts_is_not_the_answer():
    assert load_object('[THINK]{"a": 1}[/THINK]{"a": 2}') == {"a": 2}
    assert load_object('<think>{"a": 1}</think>{"a": 2}') == {"a": 2}
    assert load_object('{"a": "</think>"}') == {"a": "</think>"}

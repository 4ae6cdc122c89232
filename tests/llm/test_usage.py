"""Tokens of a call, from whatever a provider counts."""

import json

import pytest

from agentrefine.llm.completion import REFUSED, TRUNCATED, Answer, Request, Usage
from agentrefine.llm.reply import NO_USAGE, complete_usage, read_reply

TEXT = "x" * 300
REQUEST = Request("m", [{"role": "user", "content": "y" * 3000}], 1.0, 500, 0)
PROMPT, WRITTEN = 1000, 100
"""Estimates of the prompt and of the text."""


def counted(counts, *, thoughts="", finish_reason="stop", choice=None, text=TEXT):
    message = {"content": text} | ({"reasoning_content": thoughts} if thoughts else {})
    choices = [{"message": message, "finish_reason": finish_reason} | (choice or {})]
    answer = read_reply(json.dumps({"choices": choices, "usage": counts}))
    usage = complete_usage(answer, REQUEST).usage
    return usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.estimated


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"prompt_tokens": 900, "completion_tokens": 90, "total_tokens": 990}, (900, 90, 0, False)),
        ({"input_tokens": 900, "output_tokens": 90}, (900, 90, 0, False)),
        ({"prompt_tokens": "900", "completion_tokens": 90.0}, (900, 90, 0, False)),
        (None, (PROMPT, WRITTEN, 0, True)),
        ({}, (PROMPT, WRITTEN, 0, True)),
        ([1], (PROMPT, WRITTEN, 0, True)),
        ({"prompt_tokens": None, "completion_tokens": None}, (PROMPT, WRITTEN, 0, True)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (PROMPT, WRITTEN, 0, True)),
        ({"prompt_tokens": -1, "completion_tokens": -1}, (PROMPT, WRITTEN, 0, True)),
        ({"prompt_tokens": True, "completion_tokens": "many"}, (PROMPT, WRITTEN, 0, True)),
        ({"prompt_tokens": 10**20, "completion_tokens": 1e300}, (PROMPT, WRITTEN, 0, True)),
        ({"prompt_tokens": float("nan"), "completion_tokens": 90.5}, (PROMPT, WRITTEN, 0, True)),
        ({"completion_tokens": 90}, (PROMPT, 90, 0, True)),
        ({"prompt_tokens": 900}, (900, WRITTEN, 0, True)),
        ({"prompt_tokens": 900, "total_tokens": 990}, (900, 90, 0, False)),
        ({"completion_tokens": 90, "total_tokens": 990}, (900, 90, 0, False)),
        ({"total_tokens": 990}, (890, WRITTEN, 0, True)),
        ({"prompt_tokens": 900, "completion_tokens": 90, "total_tokens": 5}, (900, 90, 0, False)),
        # thoughts that are in the total alone, or counted apart
        ({"prompt_tokens": 900, "completion_tokens": 90, "total_tokens": 1990}, (900, 1090, 0, False)),
        (
            {"prompt_tokens": 900, "completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 1000}},
            (900, 1090, 0, False),
        ),
        (
            {"prompt_tokens": 900, "completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 50}},
            (900, 90, 0, False),
        ),
        # what was read from the cache: a part of the prompt, or counted apart
        (
            {"prompt_tokens": 900, "completion_tokens": 90, "prompt_tokens_details": {"cached_tokens": 512}},
            (900, 90, 512, False),
        ),
        ({"prompt_tokens": 900, "completion_tokens": 90, "prompt_cache_hit_tokens": 512}, (900, 90, 512, False)),
        (
            {"prompt_tokens": 100, "completion_tokens": 90, "prompt_tokens_details": {"cached_tokens": 800}},
            (900, 90, 800, False),
        ),
        (
            {"prompt_tokens": 900, "completion_tokens": 90, "prompt_tokens_details": None},
            (900, 90, 0, False),
        ),
        ({"completion_tokens": 90, "prompt_tokens_details": {"cached_tokens": 5000}}, (5000, 90, 5000, True)),
    ],
)
def test_counts_of_every_form_are_read_or_estimated(counts, expected):
    assert counted(counts) == expected


def test_counts_inside_a_choice_are_read():
    usage = {"prompt_tokens": 900, "completion_tokens": 90}
    assert counted(None, choice={"usage": usage}) == (900, 90, 0, False)


def test_thoughts_count_where_nobody_counts():
    assert counted(None, thoughts="z" * 3000)[1] == 1000 + WRITTEN
    assert counted({"prompt_tokens": 900, "completion_tokens": 0}, thoughts="z" * 3000, text=None)[1] == 1000


def test_an_uncounted_answer_that_was_cut_has_all_the_tokens_of_its_limit():
    assert counted(None, finish_reason="length")[1] == REQUEST.max_tokens


def test_an_empty_answer_has_no_tokens_but_its_prompt():
    assert counted(None, text="")[:2] == (PROMPT, 0)


def test_a_call_without_an_answer_has_no_tokens():
    assert complete_usage(Answer("", NO_USAGE, REFUSED), REQUEST).usage == NO_USAGE


def test_an_answer_of_the_batch_api_is_estimated_and_keeps_its_price():
    answer = read_reply(json.dumps({"choices": [{"message": {"content": TEXT}}]}), batch=True)
    assert complete_usage(answer, REQUEST).usage == Usage(
        prompt_tokens=PROMPT, completion_tokens=WRITTEN, batch=True, estimated=True
    )
    assert complete_usage(answer._replace(finish_reason=TRUNCATED), REQUEST).usage.completion_tokens == 500

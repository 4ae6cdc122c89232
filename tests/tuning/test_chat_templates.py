"""Chat templates of real models on tokenizers of three kinds: trained token by token as they should, or refused."""

import re
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import get_args

import pytest
from tokenizers import normalizers

from agentrefine.files import write_jsonl
from agentrefine.game.conversation import Message, PublishedMessage, Sample, reply_text
from agentrefine.params.tuning import MaskPolicy
from agentrefine.tuning.chat_template import MASKED, check_chat_template, end_of_turn_id, probe, prompt_ids, render
from agentrefine.tuning.masking import apply_mask_policy
from flows.cli import main
from tests.helpers.commands import failure
from tests.helpers.errors import refused
from tests.helpers.local_tokenizers import GPT_2, KINDS, byte_level, tokenizer_for, word_level
from tests.helpers.paths import DATA

OURS = DATA / "chat_templates"
TRL = Path(str(resources.files("trl"))) / "chat_templates"

# What ends a reply, for every template that is trained as it is.
TRAINED = {
    "chatml": "<|im_end|>",
    "mistral_v0_3": "</s>",
    "smollm2": "<|im_end|>",
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere_training": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_RESPONSE|>",
    "cohere2_training": "<|END_RESPONSE|>",
    "diffusion_gemma": "<turn|>",
    "diffusion_gemma_training": "<turn|>",
    "gemma": "<end_of_turn>",
    "gemma_training": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "gemma3_training": "<end_of_turn>",
    "gemma4": "<turn|>",
    "gemma4_v2": "<turn|>",
    "gemma4_v3": "<turn|>",
    "gemma4_v4": "<turn|>",
    "gemma4_v5": "<turn|>",
    "glm4moe_training": "<|user|>",
    "lfm2": "<|im_end|>",
    "lfm2_training": "<|im_end|>",
    "lfm2_v2": "<|im_end|>",
    "lfm2_v2_training": "<|im_end|>",
    "lfm2_2_5": "<|im_end|>",
    "lfm2_2_5_v2": "<|im_end|>",
    "lfm2_2_5_vl": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama3_training": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "nemotron_3_nano": "<|im_end|>",
    "nemotron_3_nano_training": "<|im_end|>",
    "nemotron_3_super": "<|im_end|>",
    "nemotron_3_super_training": "<|im_end|>",
    "nemotron_3_ultra": "<|im_end|>",
    "nemotron_3_ultra_training": "<|im_end|>",
    "nemotron_3_5_lightning": "<|im_end|>",
    "nemotron_3_5_lightning_training": "<|im_end|>",
    "phi3": "<|end|>",
    "phi3_training": "<|end|>",
    "phi3_5": "<|end|>",
    "phi3_5_training": "<|end|>",
    "qwen2_5": "<|im_end|>",
    "qwen2_5_training": "<|im_end|>",
    "qwen2_5_vl": "<|im_end|>",
    "qwen2_5_vl_training": "<|im_end|>",
    "qwen3_training": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
    "qwen3_instruct_2507_training": "<|im_end|>",
    "qwen3_vl": "<|im_end|>",
    "qwen3_vl_training": "<|im_end|>",
    "qwen3_5_nothink_training": "<|im_end|>",
    "qwen3_5_think_training": "<|im_end|>",
    "qwen3_6_training": "<|im_end|>",
    "qwen3_8": "<|im_end|>",
    "qwen3_8_training": "<|im_end|>",
}
REFUSED = {
    "deepseek_r1_distill": "prompt_opens_thinking",
    "deepseek_r1_distill_training": "prompt_opens_thinking",
    "deepseekv3": "prompt_opens_thinking",
    "deepseekv3_training": "prompt_opens_thinking",
    "glm4moe": "no_end_of_turn",
    "gptoss": "writes_todays_date",
    "gptoss_training": "writes_todays_date",
    "muse_glimmer": "text_before_reply",
    "muse_glimmer_training": "text_before_reply",
    "qwen3": "only_last_reply_thinks",
    "qwen3_5_nothink": "only_last_reply_thinks",
    "qwen3_5_think": "only_last_reply_thinks",
    "qwen3_6": "only_last_reply_thinks",
}
TWINS = {"glm4moe", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6"}
# These take a text as a list of parts; the other templates of models that see also take a plain text.
PICTURES_ONLY = {
    *("idefics3", "idefics3_training", "llava_next", "llava_next_training", "smolvlm", "smolvlm_training"),
}

THINKING = [
    Message(role="user", content="hello"),
    Message(role="assistant", content="OK"),
    Message(role="user", content="the box is shut"),
    Message(role="assistant", content="<think>hm</think>Action: open box", loss=True),
]


def template(name: str) -> str:
    ours = OURS / f"{name}.jinja"
    return (ours if ours.is_file() else TRL / f"{name}.jinja").read_text(encoding="utf-8")


def broken(text: str) -> str:
    """A template in which `text` writes a reply that follows a user's message."""
    return (
        "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|>{% else %}"
        + text
        + "{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


SOUND = broken("<|assistant|>{{ m.content }}<|end|>")


def test_the_table_holds_every_template_that_trl_ships():
    shipped = {file.stem for file in TRL.glob("*.jinja")}
    assert shipped | {file.stem for file in OURS.glob("*.jinja")} == {*TRAINED, *REFUSED, *PICTURES_ONLY}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRAINED)
def test_exactly_the_texts_with_their_end_of_turn_are_trained(name, kind):
    tokenizer = tokenizer_for(template(name), kind)
    check_chat_template(tokenizer)
    end_of_turn = tokenizer.convert_tokens_to_ids(TRAINED[name])
    assert end_of_turn_id(tokenizer) == end_of_turn
    for loss in get_args(MaskPolicy):
        chosen = apply_mask_policy(probe(), loss)
        ids, labels, *_ = render(tokenizer, probe(), loss)
        assert all(label in (token, MASKED) for token, label in zip(ids, labels, strict=True))
        runs = [list(run) for trained, run in groupby(labels, lambda label: label != MASKED) if trained]
        assert [run[-1] for run in runs] == [end_of_turn] * len(runs)
        texts = [m.content.strip() for m in chosen if m.role == "assistant" and m.loss]
        assert [tokenizer.decode(run[:-1]).strip() for run in runs] == texts
        begins = [i for i, label in enumerate(labels) if label != MASKED and labels[i - 1] == MASKED]
        turns = [i for i, m in enumerate(chosen) if m.role == "assistant"]
        prompts = [prompt_ids(tokenizer, chosen[:i]) for i in turns]
        assert all(ids[: len(prompt)] == prompt for prompt in prompts)
        assert begins == [len(prompt) for prompt, i in zip(prompts, turns, strict=True) if chosen[i].loss]
        assert ids[:2] != [tokenizer.bos_token_id] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_be_trained_on_is_refused_with_its_fault_and_its_twin_for_training(name, kind):
    tokenizer = tokenizer_for(template(name), kind)
    tokenizer.name_or_path = "some/model"
    twin = f"{name}_training.jinja" if name in TWINS else None
    with refused("template_untrainable", model="some/model", fault=REFUSED[name], twin=twin):
        check_chat_template(tokenizer)
    assert tokenizer.chat_template == template(name)


@pytest.mark.parametrize(
    ("text", "fault", "values"),
    [
        (
            broken("<|assistant|>{{ m.content if loop.last else m.content.split('\n')[-1] }}<|end|>"),
            "drops_thoughts",
            {},
        ),
        (broken("<|assistant|>{{ m.content | upper }}<|end|>"), "rewrites_reply", {}),
        (broken("<|assistant|>{{ m.content | replace('é', 'e') }}<|end|>"), "rewrites_one_text", {"thinks": False}),
        ("{{ messages[-1].content }}<|end|>", "rewrites_user", {}),
        ("{{ messages | length }}" + SOUND, "rewrites_earlier_message", {}),
        (broken("<|assistant|>{{ loop.index }}{{ m.content }}<|end|>"), "rewrites_earlier_message", {}),
        (
            broken("<|assistant|><think></think>{{ m.content }}<|end|>"),
            "text_before_reply",
            {"found": "<think></think>"},
        ),
        (broken("<|bot|>{{ m.content }}<|end|>"), "prompt_opens_otherwise", {}),
        (SOUND.replace("<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}"), "prompt_opens_thinking", {}),
        (SOUND.split("{% if add")[0], "text_before_reply", {"found": "<|assistant|>"}),
        (broken("<|assistant|>{{ m.content }}\n"), "no_end_of_turn", {"found": ""}),
        (broken("<|assistant|>{{ m.content }}[end]"), "no_end_of_turn", {"found": "[end]<|user|>"}),
        (
            broken("<|assistant|>{{ m.content }}{{ '<|end|>' if loop.last else '<|eom|>' }}"),
            "two_ends_of_turn",
            {"found": ["<|eom|>", "<|end|>"]},
        ),
        ("{{ bos_token }}{{ bos_token }}" + SOUND, "begins_twice", {}),
        ("{{ strftime_now('%d %b') }}" + SOUND, "writes_todays_date", {}),
        ("{{ raise_exception('no games') }}" + SOUND, "fails", {"reported": "no games"}),
        ("{{ messages[0].content + 1 }}" + SOUND, "fails", {}),
        ("{% if %}" + SOUND, "fails", {}),
    ],
)
def test_each_way_to_break_a_template_is_a_fault_of_its_own(text, fault, values):
    check_chat_template(tokenizer_for(SOUND))
    with refused("template_untrainable", fault=fault, **values):
        check_chat_template(tokenizer_for(text))


def test_the_sentence_of_a_refused_template_names_the_key_and_what_is_wrong():
    with refused("template_untrainable", fault="begins_twice") as caught:
        check_chat_template(tokenizer_for("{{ bos_token }}{{ bos_token }}" + SOUND))
    assert "it begins with <s> twice" in str(caught.value)
    assert "base_model.chat_template" in str(caught.value)


def normalized(backend, normalizer):
    backend.normalizer = normalizer
    return backend


@pytest.mark.parametrize(
    ("backend", "name", "fault", "found", "expected"),
    [
        (byte_level(GPT_2), "llama3", "other_prompt_tokens", None, None),
        (normalized(byte_level(), normalizers.Lowercase()), "chatml", "other_text_decoded", "ok", "OK"),
        (
            normalized(word_level(), normalizers.Replace("🔑", "🗝")),
            "chatml",
            "other_text_decoded",
            "s: é ñ 中文 <unk>\nActi",
            "s: é ñ 中文 🔑\nAction: ",
        ),
    ],
)
def test_a_tokenizer_that_breaks_a_sound_template_is_refused(backend, name, fault, found, expected):
    with refused("template_untrainable", fault=fault, found=found, expected=expected):
        check_chat_template(tokenizer_for(template(name), backend=backend))


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_a_token_that_spans_prompt_and_reply_is_refused(kind):
    text = (
        "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }}{% else %} ASSISTANT: {{ m.content }}</s>"
    )
    text += "{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT: {% endif %}"
    with refused("template_untrainable", fault="token_crosses_border"):
        check_chat_template(tokenizer_for(text, kind))
    check_chat_template(tokenizer_for(text.replace("%} ASSISTANT: {%", "%} ASSISTANT:{%"), kind))


def test_markers_in_plain_text_keep_prefixes_too():
    text = "{% for m in messages %}{{ '### ' ~ m.role ~ ':\n' ~ m.content ~ eos_token ~ '\n' }}{% endfor %}"
    text += "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    for kind in KINDS:
        check_chat_template(tokenizer_for(text, kind))


def test_what_is_allowed_but_worth_knowing_is_said():
    assert "You are Qwen" in " ".join(check_chat_template(tokenizer_for(template("qwen2_5"))))
    llama = " ".join(check_chat_template(tokenizer_for(template("llama3_2"))))
    assert "the date is fixed" in llama
    assert "takes white space off" in llama
    assert "<|eot_id|>, not with </s>" in llama
    assert "writes no <s>" in " ".join(check_chat_template(tokenizer_for(template("chatml"))))
    assert "<think> tags" in " ".join(check_chat_template(tokenizer_for(template("qwen3_training"))))


def test_the_date_in_a_template_is_the_same_every_day():
    tokenizer = tokenizer_for(template("llama3_2"))
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(render(tokenizer, probe(), "correct_turns").ids)


def test_a_conversation_whose_text_a_sound_template_rewrites_is_refused_by_its_text():
    tokenizer = tokenizer_for(template("qwen3_training"))
    begins = THINKING[-1].content[:40]
    with refused("template_untrainable", fault="rewrites_one_text", begins=begins, thinks=True):
        render(tokenizer, THINKING, "correct_turns")
    assert render(tokenizer_for(template("chatml")), THINKING, "correct_turns").trained_tokens


def test_a_reply_that_rewrites_nothing_in_training_may_hold_anything_in_play():
    tokenizer = tokenizer_for(template("qwen3_training"))
    assert prompt_ids(tokenizer, [*THINKING, Message(role="user", content="go on")])


def test_speakers_out_of_turn_are_refused_by_the_message():
    tokenizer = tokenizer_for(template("chatml"))
    twice = [Message(role="user", content="one"), Message(role="user", content="two"), *probe()[1:2]]
    with refused("bad_record", turn=2, role="user"):
        render(tokenizer, twice, "correct_turns")


def test_what_a_user_says_last_is_left_out():
    tokenizer = tokenizer_for(template("mistral_v0_3"), "sentencepiece")
    longer = [*probe(), Message(role="user", content="more")]
    assert render(tokenizer, longer, "correct_turns") == render(tokenizer, probe(), "correct_turns")


def test_white_space_around_a_reply_changes_no_token():
    tokenizer = tokenizer_for(template("chatml"))
    plain, padded = (
        [Message(role="user", content="hi"), Message(role="assistant", content=text)] * 2
        for text in (reply_text("a", "b"), f"\n\n {reply_text('a', 'b')} \n")
    )
    assert render(tokenizer, plain, "correct_turns") == render(tokenizer, padded, "correct_turns")


@pytest.mark.parametrize("kind", KINDS)
def test_a_shown_mask_without_colour_marks_trained_and_masked_turns(kind, tmp_path, capsys):
    tokenizer = tokenizer_for(template("chatml"), kind)
    tokenizer.chat_template = "replaced by the file"
    tokenizer.save_pretrained(tmp_path / "model")
    sender = {"user": "human", "assistant": "gpt"}
    messages = [PublishedMessage(from_=sender[m.role], value=m.content, loss=m.loss) for m in probe()]
    write_jsonl(tmp_path / "train.jsonl", [Sample(id="game-1", persona_id="p", conversations=messages)])
    options = ["--model", str(tmp_path / "model"), "--template", str(OURS / "chatml.jinja")]
    main(["show-mask", str(tmp_path / "train.jsonl"), *options])
    shown = capsys.readouterr().out
    assert re.search(r"\{\+Thought: i was wrong.*?Action: open box 10.*?\+\}", shown, re.DOTALL)
    assert re.search(r"\[-Thought: it is open.*?Action: take key.*?-\]", shown, re.DOTALL)
    assert not re.search(r"[-+]OK", shown), "the acknowledgement is context"
    states = re.search(r"\{\+trained\+\}: (\d+) tokens  \[-masked-\]: (\d+) tokens  context: (\d+) tokens\n", shown)
    total = re.search(r"game-1: (\d+) of (\d+) tokens trained \(\d+%\)", shown)
    assert states is not None
    assert total is not None
    trained, masked, context = map(int, states.groups())
    assert (trained, trained + masked + context) == (int(total[1]), int(total[2]))
    assert 0 < masked < trained
    assert "\x1b" not in shown


def test_a_sample_number_below_one_is_refused():
    error = failure("show-mask", "--number", "-1")
    assert (error.code, error.values["key"], error.values["value"]) == ("bad_value", "--number", -1)

"""What a reasoning model thinks before its answer, where the server leaves it in the text."""

import re

_TAGS = "think|thinking|thought|reasoning|reason|seed:think"
_PAIRS = (
    (rf"<(?:{_TAGS})>", rf"</(?:{_TAGS})>"),
    (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    (r"◁think▷", r"◁/think▷"),  # Kimi
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # Sky-T1, OpenThinker
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Cohere
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
    (r"<\|open\|>think<\|sep\|>", r"<\|close\|>think<\|sep\|>"),  # Kimi K3
    (r"analysis(?=[A-Z])", r"assistantfinal"),  # gpt-oss without its special tokens
    (  # gpt-oss; the start of an answer follows the end of the thoughts
        r"<\|channel\|>(?:analysis|commentary)[^<]*<\|message\|>",
        r"<\|channel\|>final[^<]*<\|message\|>",
    ),
)
_OPENS = re.compile(rf"\s*(?:{'|'.join(f'(?:{opens})' for opens, _ in _PAIRS)})")
_CLOSES = re.compile("|".join(f"(?:{closes})" for _, closes in _PAIRS))
_WRAPPERS = re.compile(
    r"\s*(?:<(?P<tag>answer|response)>(?P<tagged>.*?)(?:</(?P=tag)>|\Z)"
    r"|<\|begin_of_solution\|>(?P<solution>.*?)(?:<\|end_of_solution\|>|\Z)"
    r"|<\|START_(?:RESPONSE|TEXT)\|>(?P<reply>.*?)(?:<\|END_(?:RESPONSE|TEXT)\|>|\Z))\s*",
    re.DOTALL,
)
"""What some models put around an answer that follows their thoughts."""
_ENDS = re.compile(r"\s*<\|(?:return|end|call)\|>\s*\Z")


def without_thinking(text: str) -> str:
    """An answer without the thoughts before it, their markers and what surrounds the answer.

    Thoughts are a marked block at the beginning; where it is never closed, because the answer was cut, nothing remains.
    A closing marker alone ends thoughts that the chat template opened. A text without markers comes back as it is.
    """
    rest = text
    while True:
        opened = _OPENS.match(rest)
        closed = _CLOSES.search(rest, opened.end() if opened else 0)
        if closed:
            rest = rest[closed.end() :]
        elif opened:
            return ""
        else:
            break
    if rest is text:
        return text
    rest = _ENDS.sub("", rest)
    wrapped = _WRAPPERS.fullmatch(rest)
    return (wrapped["tagged"] or wrapped["solution"] or wrapped["reply"] or "").strip() if wrapped else rest.strip()

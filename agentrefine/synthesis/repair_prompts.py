"""The prompts of repair: a rejected script again, or the rest of a rejected game, with the reason.

Programs read them too: the kept turns are a JSON list in the block under `# Turns so far`, and the feedback is one line
of its own under `# What to change`.
"""

from collections.abc import Sequence
from string import Template

from agentrefine.files import packaged_text
from agentrefine.game.personas import Persona
from agentrefine.game.script import Script
from agentrefine.game.trajectory import DMTurn, PlayerTurn, error_refine_turns
from agentrefine.llm.completion import ChatMessage
from agentrefine.params import VerificationParams
from agentrefine.synthesis.prompts import DEMANDS, message, script_rules, trajectory_prompt, turns_json

MAX_FEEDBACK = 1000
"""Characters of feedback that a prompt passes on at most."""


def script_retry_messages(persona: Persona, feedback: str) -> list[ChatMessage]:
    """Asks for a persona's script again; `feedback` is what was wrong with the last one."""
    text = packaged_text("agentrefine.synthesis", "prompts", "script_retry.md")
    return message(
        Template(text).substitute(rules=script_rules(persona), feedback=_one_line(feedback), persona=persona.text)
    )


def continuation_messages(
    persona: Persona,
    script: Script,
    kept: Sequence[DMTurn | PlayerTurn],
    feedback: str,
    demands: VerificationParams = DEMANDS,
) -> list[ChatMessage]:
    """Asks for the turns after `kept`, which ends with a DM turn; for the whole game again when `kept` is empty."""
    text = packaged_text("agentrefine.synthesis", "prompts", "continuation.md")
    prompt = Template(text).substitute(
        instructions=trajectory_prompt(persona, script, demands),
        turns=turns_json(kept),
        feedback=_one_line(feedback),
        next_turn=len(kept) + 1,
        next_role="the Player" if kept else "the DM",
        corrected=error_refine_turns(kept),
        mistakes=demands.min_error_refine_turns,
    )
    return message(prompt)


def _one_line(feedback: str) -> str:
    text = " ".join(feedback.split())
    return text if len(text) <= MAX_FEEDBACK else text[:MAX_FEEDBACK] + " ..."

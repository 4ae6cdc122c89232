"""Players behind an endpoint, and the dialogues that they are asked about."""

from pathlib import Path
from typing import Any

from agentrefine.evaluation.endpoint import EndpointPolicy
from agentrefine.evaluation.policy import Dialogue
from agentrefine.game.conversation import Message, opening
from agentrefine.params.evaluation import EndpointParams

KEY = "AGENTREFINE_TEST_KEY"
POLICY_OPTIONS = ("name", "max_new_tokens", "sampling", "seed", "journal", "spent")


def player(url: str, **options: Any) -> EndpointPolicy:
    """A policy at an address, with other settings by name: those of `EndpointPolicy`, or of its section."""
    own = {"name": "m", "max_new_tokens": 64} | {name: options.pop(name) for name in POLICY_OPTIONS if name in options}
    section = {"base_url": url, "model": "m", "api_key_env": KEY, "timeout_seconds": 5.0, "concurrency": 16} | options
    return EndpointPolicy(EndpointParams.model_validate(section), **own)


def dialogue(key: str, turns: int = 0) -> Dialogue:
    messages = opening("act", "take the apple", f"first {key}")
    for turn in range(turns):
        messages += [Message(role="assistant", content=f"reply {turn}"), Message(role="user", content=f"seen {turn}")]
    return Dialogue(key, messages)


def replies_file(folder: Path) -> Path:
    return folder / "replies.sqlite"

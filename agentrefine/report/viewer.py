"""The episode viewer: for each model one HTML page that holds all it shows and asks no network for anything.

The episodes travel as compressed JSON in base64, so that no text of a model or a simulator is ever part of the page's
markup, and the page's scripts put such text into the document as text only. A Content-Security-Policy allows the page's
own script and style by their hashes, and no connection at all.
"""

import base64
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict

from agentrefine.evaluation.episodes import Episode, EpisodeStep
from agentrefine.evaluation.metrics import is_stuck
from agentrefine.files import atomic_folder, packaged_text, write_text
from agentrefine.params import Params
from agentrefine.report.document import render
from agentrefine.report.inputs import Project

SCRIPTS = ("episodes.js", "filters.js", "list.js", "turns.js", "main.js")
"""The files of the page's script, in the order in which they follow one another."""

Flag = Literal["format error", "invalid action", "recovered", "fault"]
ErrorKind = Literal["none", "format error", "invalid action", "stuck"]


class ViewedTurn(BaseModel):
    """One turn as the page shows it.

    Example: `{"thought": "look", "action": "take lamp", "reply": "", "observation": "...", "flags": ["recovered"],
    "progress": 0.5, "gained": 0.5, "turns_cut": 0}`

    Attributes:
        thought, action: the parts of the reply; both empty on a format error.
        reply: the reply, raw, on a format error; otherwise empty, since thought and action say it all.
        observation: the answer to it.
        flags: what was wrong with the turn, that it recovers from the one before (`recovery` in the report), or that
            the world failed although the action was possible (`fault`).
        progress: best share of sub-goals so far, in [0, 1].
        gained: how much of it this turn brought.
        turns_cut: how many of the oldest turns the model did not read, for lack of context.
    """

    model_config = ConfigDict(frozen=True)

    thought: str
    action: str
    reply: str
    observation: str
    flags: list[Flag]
    progress: float
    gained: float
    turns_cut: int


class ViewedEpisode(BaseModel):
    """One episode as the page shows and filters it.

    Example: `{"benchmark": "babyai", "id": "goto-000", "attempt": 0, "task": "goto", ..., "stop": "step limit",
    "outcomes": ["step limit", "stuck"], "errors": ["invalid action", "stuck"], "error": "", "turns": [...]}`

    Attributes:
        benchmark, id, task, variant, difficulty, seed, goal, first_observation, progress: as in `Episode`.
        attempt: which of the model's plays of this episode, from 0.
        stop: why it ended.
        outcomes: by what it is found: `stop`, and `stuck` if it was not solved for repeating itself.
        errors: the kinds of error in it; `none` alone where there is none.
        error: what the simulator said when it failed.
        turns: the model's turns.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    id: str
    attempt: int
    task: str
    variant: str
    difficulty: str
    seed: int
    goal: str
    first_observation: str
    progress: float
    stop: str
    outcomes: list[str]
    errors: list[ErrorKind]
    error: str
    turns: list[ViewedTurn]


class ViewedModel(BaseModel):
    """All episodes of one model, in the order of their file. The digest identifies its weights; empty where unknown.

    Example: `{"name": "refinement", "digest": "3f2a...", "episodes": [...]}`
    """

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    episodes: list[ViewedEpisode]

    def packed(self) -> str:
        """The model as the page unpacks it: JSON in UTF-8, zlib's format, base64."""
        return base64.b64encode(zlib.compress(self.model_dump_json().encode(), 9)).decode()


def write_viewers(params: Params, project: Project = Project()) -> None:  # noqa: B008 (frozen)
    """Write `reports/evaluation/<model>/index.html` for every evaluated model; pages of other models are removed.

    Raises:
        UserError: a model has not been evaluated, or its file is broken; names the file and the line.
    """
    names = params.evaluation.players
    packed = {name: viewed_model(name, project.episodes(name)).packed() for name in names}
    with atomic_folder(project.root / "reports" / "evaluation") as folder:
        for name in names:
            write_text(folder / name / "index.html", page(name, packed))


def page(model: str, packed: dict[str, str]) -> str:
    """A model's page; `packed` are this and all other models' episodes (`ViewedModel.packed`), by name."""
    files = ("style.css", *SCRIPTS)
    style, *scripts = (packaged_text("agentrefine.report", "templates", "viewer", name) for name in files)
    script = "\n".join(scripts)
    policy = (
        f"default-src 'none'; script-src '{_csp_hash(script)}'; style-src '{_csp_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return render(
        "viewer/index.html.jinja",
        {"model": model, "packed": packed, "policy": policy, "style": Markup(style), "script": Markup(script)},  # noqa: S704 (our own files)
    )


def viewed_model(name: str, episodes: Iterable[Episode]) -> ViewedModel:
    """A model's episodes as the page shows them. The plays of one episode are numbered in their order."""
    plays: Counter[tuple[str, str]] = Counter()
    viewed = []
    digest = ""
    for episode in episodes:
        key = (episode.benchmark, episode.id)
        viewed.append(viewed_episode(episode, plays[key]))
        plays[key] += 1
        digest = episode.model_digest
    return ViewedModel(name=name, digest=digest, episodes=viewed)


def viewed_episode(episode: Episode, attempt: int = 0) -> ViewedEpisode:
    """An episode as the page shows it."""
    stuck = is_stuck(episode)
    turns = [_turn(before, step) for before, step in zip([None, *episode.steps], episode.steps, strict=False)]
    flags = {flag for turn in turns for flag in turn.flags}
    kinds = [kind for kind in ("format error", "invalid action") if kind in flags] + ["stuck"] * stuck
    values = {
        "attempt": attempt,
        "outcomes": [episode.stop, *(["stuck"] if stuck and not episode.success else [])],
        "errors": kinds or ["none"],
        "turns": turns,
    }
    return ViewedEpisode.model_validate(episode.model_dump(include=set(ViewedEpisode.model_fields)) | values)


def _turn(before: EpisodeStep | None, step: EpisodeStep) -> ViewedTurn:
    flags: list[Flag] = []
    if step.failed:
        flags.append("format error" if step.format_error else "invalid action")
    elif before is not None and before.failed and step.action != before.action:
        flags.append("recovered")
    if step.fault:
        flags.append("fault")
    values = {
        "reply": step.reply if step.format_error else "",
        "flags": flags,
        "gained": step.progress - (before.progress if before else 0.0),
    }
    return ViewedTurn.model_validate(step.model_dump(include=set(ViewedTurn.model_fields)) | values)


def _csp_hash(text: str) -> str:
    """A script or style as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

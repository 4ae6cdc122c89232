"""Some episodes as MLflow traces, which the Traces tab of their model's run shows turn by turn.

MLflow's tracing functions send in the background, to one store per process, and only write a line of log about what was
lost. The two calls that their exporter makes are made here directly: what cannot be kept is an error.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Span, SpanType, TraceInfo, TraceLocation, TraceState
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import SpanAttributeKey, TokenUsageKey, TraceMetadataKey, TraceTagKey

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.times import EpisodeTimes

EPISODE_TAG = "agentrefine.episode"
"""The tag of our traces: benchmark and episode."""

MAX_TRACES = 500
PREVIEW = 1000
"""Characters of the texts that a list of traces shows."""

NAME = 80
"""Characters of a goal that a trace is named by."""

NS = 1_000_000_000
"""Nanoseconds of a second."""


class _Lasted(NamedTuple):
    """When a span begins and ends, in nanoseconds since 1970, and what its attributes say of that."""

    began: int
    ended: int
    attributes: dict[str, Any]


def log_traces(
    client: MlflowClient,
    run_id: str,
    episodes: Sequence[Episode],
    times: Iterable[EpisodeTimes],
    seconds: Mapping[str, float],
    uri: str,
) -> None:
    """Keep episodes as the traces of a run, in place of those that it has.

    Args:
        client, run_id: the store, and the run.
        episodes: what is kept.
        times: of these and of other episodes. A trace and its turns begin and end when they did. One whose times were
            not measured ends now and lasts as long as an episode of its benchmark took on average, divided among its
            turns by the tokens that they read and wrote; its attribute `duration` is then `average`.
        seconds: the averages, by benchmark.
        uri: the store's.

    Raises:
        NotImplementedError: the store is of before MLflow 3.4.
    """
    measured = {(found.benchmark, found.id, found.attempt): found for found in times}
    experiment_id = client.get_run(run_id).info.experiment_id
    found = client.search_traces(locations=[experiment_id], run_id=run_id, max_results=MAX_TRACES, include_spans=False)
    earlier = [trace.info.trace_id for trace in found if EPISODE_TAG in trace.info.tags]
    if earlier:
        client.delete_traces(experiment_id, trace_ids=earlier)
    tracing = TracingClient(uri)
    for number, episode in enumerate(episodes):
        # An episode may be there twice: two attempts, of which one solved it.
        trace_id = f"tr-{_hex(32, run_id, str(number), episode.benchmark, episode.id)}"
        own = measured.get((episode.benchmark, episode.id, episode.attempt))
        whole, turns = _as_it_was(own) if own else _average(episode, seconds.get(episode.benchmark, 0.0))
        tracing.start_trace(_trace_info(episode, trace_id, experiment_id, run_id, whole))
        tracing.log_spans(experiment_id, _spans(episode, trace_id, whole, turns))


def _as_it_was(times: EpisodeTimes) -> tuple[_Lasted, list[_Lasted]]:
    """When an episode, and each of its turns, began and ended."""
    parts = (times.before, *map(sum, times.turns), times.after)
    began, *between, ended = accumulate((round(NS * part) for part in parts), initial=round(NS * times.began))
    turns = [
        _Lasted(*turn, {"reply_seconds": took.reply, "step_seconds": took.step})
        for turn, took in zip(pairwise(between), times.turns, strict=True)
    ]
    return _Lasted(began, ended, {}), turns


def _average(episode: Episode, seconds: float) -> tuple[_Lasted, list[_Lasted]]:
    """The same of an episode that ends now after so many seconds, divided among its turns by their tokens."""
    lasted = max(1, len(episode.steps), round(NS * seconds))
    ended = time.time_ns()
    shares = [max(1, step.prompt_tokens + step.completion_tokens) for step in episode.steps]
    between = (ended - lasted + lasted * share // max(1, sum(shares)) for share in accumulate(shares, initial=0))
    turns = [_Lasted(*turn, {}) for turn in pairwise(between)]
    return _Lasted(ended - lasted, ended, {"duration": "average"}), turns


def _trace_info(episode: Episode, trace_id: str, experiment_id: str, run_id: str, lasted: _Lasted) -> TraceInfo:
    usage = _usage(episode.prompt_tokens, episode.completion_tokens)
    return TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=lasted.began // 1_000_000,
        execution_duration=(lasted.ended - lasted.began) // 1_000_000,
        state=TraceState.ERROR if episode.stop == "environment error" else TraceState.OK,
        request_preview=f"{episode.benchmark}: {episode.goal}"[:PREVIEW],
        response_preview=f"{episode.stop}, progress {episode.progress:.0%}",
        trace_metadata={TraceMetadataKey.SOURCE_RUN: run_id, TraceMetadataKey.TOKEN_USAGE: json.dumps(usage)},
        tags={
            TraceTagKey.TRACE_NAME: _name(episode),
            EPISODE_TAG: f"{episode.benchmark}:{episode.id}",
            "outcome": episode.stop,
            "task": episode.task,
        },
    )


def _spans(episode: Episode, trace_id: str, whole: _Lasted, turns: Sequence[_Lasted]) -> list[Span]:
    """The episode as the root span, and below it a span for every turn: the observation, and the answer to it."""
    root = _span(
        trace_id,
        _name(episode),
        SpanType.AGENT,
        whole,
        episode.error,
        {"goal": episode.goal, "first_observation": episode.first_observation},
        {"outcome": episode.stop, "success": episode.success, "progress": episode.progress},
        episode.model_dump(include={"id", "task", "seed", "variant", "difficulty", "model", "model_digest"}),
    )
    spans, read = [root], episode.first_observation
    for number, (step, turn) in enumerate(zip(episode.steps, turns, strict=True)):
        spans.append(
            _span(
                trace_id,
                f"turn {number + 1}",
                SpanType.LLM,
                turn,
                "format error" if step.format_error else "" if step.valid else "invalid action",
                {"observation": read},
                {"reply": step.reply} if step.format_error else {"thought": step.thought, "action": step.action},
                {
                    **step.model_dump(
                        include={"valid", "format_error", "error_kind", "progress", "turns_cut", "fault"}
                    ),
                    "answer": step.observation,
                    SpanAttributeKey.CHAT_USAGE: _usage(step.prompt_tokens, step.completion_tokens),
                },
                parent=_hex(16, trace_id),
            )
        )
        read = step.observation
    return spans


def _span(
    trace_id: str,
    name: str,
    span_type: str,
    lasted: _Lasted,
    error: str,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    attributes: dict[str, Any],
    parent: str | None = None,
) -> Span:
    """A finished span, below the span `parent` if there is one."""
    values = {
        SpanAttributeKey.REQUEST_ID: trace_id,
        SpanAttributeKey.SPAN_TYPE: span_type,
        SpanAttributeKey.INPUTS: inputs,
        SpanAttributeKey.OUTPUTS: outputs,
        **lasted.attributes,
        **attributes,
    }
    return Span.from_dict(
        {
            "trace_id": trace_id,
            "span_id": _hex(16, trace_id, name) if parent else _hex(16, trace_id),
            "parent_span_id": parent,
            "name": name,
            "start_time_unix_nano": lasted.began,
            "end_time_unix_nano": lasted.ended,
            "status": {"code": "ERROR" if error else "OK", "message": error},
            "attributes": {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()},
        }
    )


def _usage(read: int, written: int) -> dict[str, int]:
    return {
        TokenUsageKey.INPUT_TOKENS: read,
        TokenUsageKey.OUTPUT_TOKENS: written,
        TokenUsageKey.TOTAL_TOKENS: read + written,
    }


def _name(episode: Episode) -> str:
    """Benchmark and goal: `worlds_layouts: Move the sword to the courtyard.`"""
    return f"{episode.benchmark}: {' '.join(episode.goal.split())}"[:NAME]


def _hex(digits: int, *parts: str) -> str:
    """An id of so many hexadecimal digits for the parts in their order."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:digits]

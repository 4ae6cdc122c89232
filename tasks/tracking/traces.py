"""Some episodes as MLflow traces, which the Traces tab of their model's run shows turn by turn.

MLflow's tracing functions send in the background, to one store per process, and only write a line of log about what was
lost. The two calls that their exporter makes are made here directly: what cannot be kept is an error.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Span, SpanType, TraceInfo, TraceLocation, TraceState
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import SpanAttributeKey, TokenUsageKey, TraceMetadataKey, TraceTagKey

from agentrefine.evaluation.episodes import Episode

EPISODE_TAG = "agentrefine.episode"
"""The tag of our traces: benchmark and episode."""

MAX_TRACES = 500
PREVIEW = 1000
"""Characters of the texts that a list of traces shows."""

NAME = 80
"""Characters of a goal that a trace is named by."""

NS = 1_000_000_000
"""Nanoseconds of a second."""


def log_traces(
    client: MlflowClient, run_id: str, episodes: Sequence[Episode], seconds: Mapping[str, float], uri: str
) -> None:
    """Keep episodes as the traces of a run, in place of those that it has; `client` and `uri` are the store's.

    Episodes are played side by side and not timed apart. So a trace lasts as long as an episode of its benchmark took
    on average (`seconds`), divided among its turns by the tokens that they read and wrote.

    Raises:
        NotImplementedError: the store is of before MLflow 3.4.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    found = client.search_traces(locations=[experiment_id], run_id=run_id, max_results=MAX_TRACES, include_spans=False)
    earlier = [trace.info.trace_id for trace in found if EPISODE_TAG in trace.info.tags]
    if earlier:
        client.delete_traces(experiment_id, trace_ids=earlier)
    tracing = TracingClient(uri)
    began = time.time_ns()
    for number, episode in enumerate(episodes):
        # An episode may be there twice: two attempts, of which one solved it.
        trace_id = f"tr-{_hex(32, run_id, str(number), episode.benchmark, episode.id)}"
        lasted = max(1, len(episode.steps), round(NS * seconds.get(episode.benchmark, 0.0)))
        tracing.start_trace(_trace_info(episode, trace_id, experiment_id, run_id, began - lasted, lasted))
        tracing.log_spans(experiment_id, _spans(episode, trace_id, began - lasted, lasted))


def _trace_info(episode: Episode, trace_id: str, experiment_id: str, run_id: str, began: int, lasted: int) -> TraceInfo:
    usage = _usage(episode.prompt_tokens, episode.completion_tokens)
    return TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=began // 1_000_000,
        execution_duration=lasted // 1_000_000,
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


def _spans(episode: Episode, trace_id: str, began: int, lasted: int) -> list[Span]:
    """The episode as the root span, and below it a span for every turn: the observation, and the answer to it."""
    root = _span(
        trace_id,
        _name(episode),
        SpanType.AGENT,
        (began, began + lasted),
        episode.error,
        {"goal": episode.goal, "first_observation": episode.first_observation},
        {"outcome": episode.stop, "success": episode.success, "progress": episode.progress},
        episode.model_dump(include={"id", "task", "seed", "variant", "difficulty", "model", "model_digest"}),
    )
    spans, read = [root], episode.first_observation
    times = _turn_times(episode, began, lasted)
    for number, (step, time_of_turn) in enumerate(zip(episode.steps, times, strict=True)):
        spans.append(
            _span(
                trace_id,
                f"turn {number + 1}",
                SpanType.LLM,
                time_of_turn,
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
    times: tuple[int, int],
    error: str,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    attributes: dict[str, Any],
    parent: str | None = None,
) -> Span:
    """A finished span, below the span `parent` if there is one; `times` are its beginning and end in nanoseconds."""
    values = {
        SpanAttributeKey.REQUEST_ID: trace_id,
        SpanAttributeKey.SPAN_TYPE: span_type,
        SpanAttributeKey.INPUTS: inputs,
        SpanAttributeKey.OUTPUTS: outputs,
        **attributes,
    }
    return Span.from_dict(
        {
            "trace_id": trace_id,
            "span_id": _hex(16, trace_id, name) if parent else _hex(16, trace_id),
            "parent_span_id": parent,
            "name": name,
            "start_time_unix_nano": times[0],
            "end_time_unix_nano": times[1],
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


def _turn_times(episode: Episode, began: int, lasted: int) -> Iterator[tuple[int, int]]:
    """When each turn begins and ends, in nanoseconds."""
    shares = [max(1, step.prompt_tokens + step.completion_tokens) for step in episode.steps]
    ends = accumulate(shares, initial=0)
    return pairwise(began + lasted * end // max(1, sum(shares)) for end in ends)


def _hex(digits: int, *parts: str) -> str:
    """An id of so many hexadecimal digits for the parts in their order."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:digits]

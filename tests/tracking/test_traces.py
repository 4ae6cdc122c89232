"""Episodes as MLflow traces, in a real store: they stand in their model's run, turn by turn, and never twice."""

from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Trace

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.times import EpisodeTimes, TurnTime
from agentrefine.files import write_jsonl
from agentrefine.params import Params
from agentrefine.report.inputs import Project, notable_episodes
from tasks.tracking import contents, runs
from tasks.tracking.store import store
from tasks.tracking.traces import log_traces
from tests.helpers.errors import refused
from tests.helpers.results_tree import episodes, step, write_evaluation


def keep(run_id: str, played: list[Episode], params: Params, times: Sequence[EpisodeTimes] = ()) -> None:
    with store(params.tracking) as client:
        log_traces(client, run_id, played, times, {"worlds_layouts": 3.0}, params.tracking.uri)


def traces_of(run_id: str, params: Params) -> list[Trace]:
    client = MlflowClient(params.tracking.uri)
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_traces(locations=[experiment], run_id=run_id)
    return sorted(found, key=lambda trace: str(trace.info.tags["agentrefine.episode"]))


def test_a_trace_holds_the_episode_and_its_turns(params: Params) -> None:
    run_id = runs.model_run("refinement", "d1", params)
    keep(run_id, notable_episodes(episodes("refinement", 1)), params)
    solved, unsolved = traces_of(run_id, params)
    root, first, second = solved.data.spans
    assert (root.name, root.parent_id) == ("worlds_layouts: Fetch the lamp.", None)
    assert solved.info.tags["mlflow.traceName"] == "worlds_layouts: Fetch the lamp."
    assert root.inputs == {"goal": "Fetch the lamp.", "first_observation": "You are in a hall."}
    assert root.outputs == {"outcome": "solved", "success": True, "progress": 1.0}
    assert root.get_attribute("id") == "worlds_layouts-000"
    assert [turn.parent_id for turn in (first, second)] == [root.span_id] * 2
    assert (first.name, second.name) == ("turn 1", "turn 2")
    assert first.inputs == {"observation": "You are in a hall."}
    assert second.inputs == {"observation": "You see <b>a lamp</b>."}
    assert second.outputs == {"thought": "look", "action": "put lamp"}
    assert (second.get_attribute("valid"), second.get_attribute("format_error")) == (True, False)
    assert solved.info.trace_metadata["mlflow.sourceRun"] == run_id
    assert (solved.info.request_preview, solved.info.response_preview) == (
        "worlds_layouts: Fetch the lamp.",
        "solved, progress 100%",
    )
    assert solved.info.token_usage == {"input_tokens": 20, "output_tokens": 8, "total_tokens": 28}
    assert solved.info.tags["outcome"] == "solved"
    assert unsolved.info.tags["outcome"] == "step limit"
    assert [(s.status.status_code.value, s.status.description) for s in unsolved.data.spans[1:]] == [
        ("ERROR", "invalid action")
    ] * 2


def times_of(episode: Episode) -> EpisodeTimes:
    return EpisodeTimes(
        benchmark=episode.benchmark, id=episode.id, attempt=episode.attempt, began=1_790_000_000.5, before=0.25,
        turns=[TurnTime(2.0, 0.5), TurnTime(1.0, 0.125)], after=0.125,
    )  # fmt: skip


def test_a_trace_and_its_turns_last_as_long_as_they_did(params: Params) -> None:
    run_id = runs.model_run("refinement", "d1", params)
    solved, other = episodes("refinement", 1, of=2)
    keep(run_id, [solved], params, [times_of(other), times_of(solved)])
    (trace,) = traces_of(run_id, params)
    began = 1_790_000_000_500_000_000
    assert (trace.info.request_time, trace.info.execution_duration) == (began // 1_000_000, 4000)
    root, first, second = trace.data.spans
    spans = [(span.start_time_ns - began, span.end_time_ns - began) for span in (root, first, second)]
    assert spans == [(0, 4_000_000_000), (250_000_000, 2_750_000_000), (2_750_000_000, 3_875_000_000)]
    assert [(turn.get_attribute("reply_seconds"), turn.get_attribute("step_seconds")) for turn in (first, second)] == [
        (2.0, 0.5),
        (1.0, 0.125),
    ]
    assert root.get_attribute("duration") is None


def test_a_trace_without_times_lasts_the_average_and_says_so(params: Params) -> None:
    run_id = runs.model_run("refinement", "d1", params)
    first_attempt, _ = episodes("refinement", 1, of=2)
    again = first_attempt.model_copy(update={"attempt": 1})
    keep(run_id, [first_attempt], params, [times_of(again)])
    (trace,) = traces_of(run_id, params)
    assert trace.info.execution_duration == 3000
    root, first, second = trace.data.spans
    assert root.get_attribute("duration") == "average"
    assert root.end_time_ns - root.start_time_ns == 3_000_000_000
    assert (first.start_time_ns, first.end_time_ns, second.end_time_ns) == (
        root.start_time_ns, second.start_time_ns, root.end_time_ns
    )  # fmt: skip
    assert first.get_attribute("reply_seconds") is None


def test_an_evaluation_logs_traces_with_the_times_that_it_wrote(params: Params, tmp_path: Path) -> None:
    played = episodes("refinement", 1)
    folder = write_evaluation(tmp_path, "refinement", played)
    run_id = runs.model_run("refinement", "d1", params)

    def durations() -> list[int]:
        with runs.live_evaluation("refinement", "d1", params) as into:
            contents.log_evaluation("refinement", into, params, Project(tmp_path))
        return [trace.info.execution_duration for trace in traces_of(run_id, params)]

    assert durations() == [500, 500]  # an evaluation of before the file: 10 s for 20 episodes
    write_jsonl(folder / "turn_times.jsonl", [times_of(played[0])])
    assert durations() == [4000, 500]
    (folder / "turn_times.jsonl").write_text("{}\n")
    with refused("stage_file_broken", file=folder / "turn_times.jsonl", line=1):
        durations()


def test_a_format_error_and_a_failed_simulator_are_told(params: Params) -> None:
    mumbled = step("", valid=False, progress=0.0).model_copy(
        update={"thought": "", "format_error": True, "reply": "I would rather not.", "error_kind": "format_error"}
    )
    failed = episodes("refinement", 0, of=1)[0].model_copy(
        update={"steps": [mumbled], "stop": "environment error", "error": "the simulator is gone"}
    )
    run_id = runs.model_run("refinement", "d2", params)
    keep(run_id, [failed], params)
    (trace,) = traces_of(run_id, params)
    root, turn = trace.data.spans
    assert trace.info.state.value == "ERROR"
    assert (root.status.status_code.value, root.status.description) == ("ERROR", "the simulator is gone")
    assert turn.outputs == {"reply": "I would rather not."}
    assert turn.get_attribute("error_kind") == "format_error"
    assert turn.status.description == "format error"


def test_a_repeated_evaluation_replaces_its_traces_and_no_other_run_s(params: Params) -> None:
    run_id, other = (runs.model_run(model, "d3", params) for model in ("refinement", "base"))
    for model_run, model in ((run_id, "refinement"), (other, "base")):
        keep(model_run, notable_episodes(episodes(model, 3)), params)
    keep(run_id, notable_episodes(episodes("refinement", 5)), params)
    ids = [trace.info.tags["agentrefine.episode"] for trace in traces_of(run_id, params)]
    assert ids == ["worlds_layouts:worlds_layouts-000", "worlds_layouts:worlds_layouts-005"]
    assert len(traces_of(other, params)) == 2


def test_two_attempts_at_one_episode_are_two_traces(params: Params) -> None:
    solved, unsolved = episodes("refinement", 1, of=2)
    again: Episode = unsolved.model_copy(update={"id": solved.id})
    run_id = runs.model_run("refinement", "d4", params)
    keep(run_id, notable_episodes([solved, again]), params)
    assert {trace.info.tags["outcome"] for trace in traces_of(run_id, params)} == {"solved", "step limit"}


def test_a_store_without_the_run_is_refused(params: Params) -> None:
    with refused("store_unusable", key="tracking.uri", reported="RESOURCE_DOES_NOT_EXIST"):
        keep("0" * 32, episodes("refinement", 1, of=1), params)

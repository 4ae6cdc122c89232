"""The same calls through distilabel, for `perf/synthesis.py`; runs in a virtual environment of its own.

Two `TextGeneration` tasks, the script and then the game, each with an `OpenAILLM`. distilabel gives each task a process
of its own and sends one batch at a time: all calls of a batch at once, the next batch when all of it is answered. So a
batch is as large as the number of calls that may be in flight; the two tasks overlap, so that up to twice as many are.
"""

import argparse
import json
from pathlib import Path

from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def generation(name: str, prompt: str, base_url: str, max_tokens: int, concurrency: int) -> TextGeneration:
    """The task that asks for the texts in the column `prompt`."""
    llm = OpenAILLM(
        model="canned",
        base_url=base_url,
        api_key="none",
        timeout=600,
        generation_kwargs={"max_new_tokens": max_tokens, "temperature": 1.0},
    )
    return TextGeneration(
        name=name,
        llm=llm,
        input_batch_size=concurrency,
        add_raw_input=False,
        add_raw_output=False,
        input_mappings={"instruction": prompt},
        output_mappings={"generation": name, "model_name": f"{name}_model"},
    )


def main() -> None:
    """Read the arguments, ask, and fail when an answer is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--calls", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    arguments = parser.parse_args()
    with arguments.calls.open(encoding="utf-8") as handle:
        calls = [json.loads(line) for line in handle]
    with Pipeline(name="synthesis") as pipeline:
        load = LoadDataFromDicts(data=calls, batch_size=arguments.concurrency)
        script = generation("script", "script_prompt", arguments.base_url, 4096, arguments.concurrency)
        game = generation("game", "trajectory_prompt", arguments.base_url, 8192, arguments.concurrency)
        load >> script >> game
    rows = pipeline.run(use_cache=False)["default"]["train"]
    answered = sum(bool(row["script"]) + bool(row["game"]) for row in rows)
    if answered != 2 * len(calls):
        raise SystemExit(f"{answered} answers of {2 * len(calls)}")


if __name__ == "__main__":
    main()

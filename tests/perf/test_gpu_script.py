"""What is measured on a GPU, run on a CPU with tiny sizes, and with nothing installed that a GPU's machine lacks."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from agentrefine.files import write_jsonl
from agentrefine.game.conversation import Message, PublishedMessage, Sample
from agentrefine.game.sample import conversation
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.chat_template import render
from agentrefine.tuning.models import load_base, load_tokenizer
from agentrefine.verification.reading import parse_turns
from perf import gpu_base
from perf.gpu_results import Interval, Part, Play, Results, Speed, markdown
from perf.model_flops import flops_per_token, least_flops_per_token, multiplied_parameters
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT
from tests.helpers.simulated_games import games
from tests.helpers.tiny_model import tiny_model

SENDER = {"user": "human", "assistant": "gpt"}

HIDES = """
import json, sys
from importlib.machinery import PathFinder
from pathlib import Path

HIDDEN = frozenset(json.loads(Path(__file__).with_name("hidden.json").read_text()))


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)


sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""A module that Python imports when it starts: packages whose names stand in a file beside it are not found."""


def listed(file: str) -> set[str]:
    """The distributions of a list, as pip compares names."""
    lines = (ROOT / "perf" / file).read_text().splitlines()
    return {normal(line.partition("==")[0]) for line in lines if line and not line.startswith("#")}


def with_requirements(names: set[str]) -> set[str]:
    """Distributions, and what they require as they are installed here: other versions may need other packages."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = map(Requirement, requires(name) or [])
        except PackageNotFoundError:  # on a GPU's machine only
            continue
        left += [normal(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def samples(count: int) -> list[Sample]:
    played: list[list[Message]] = [
        conversation(script, parse_turns(json.dumps(turns)).turns) for script, turns in games(count)
    ]
    return [
        Sample(
            id=str(number),
            persona_id="p",
            conversations=[PublishedMessage(from_=SENDER[m.role], value=m.content, loss=m.loss) for m in game],
        )
        for number, game in enumerate(played)
    ]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A chat model and a data set, as perf/gpu_prepare.sh leaves them, but small and as a folder."""
    folder = tmp_path_factory.mktemp("inputs")
    drawn = samples(40)
    texts = [message.content for sample in drawn for message in sample.messages()]
    words = sorted({word for text in texts for word in text.split() if word.isalpha()})
    tokenizer = build_tokenizer(words, texts)
    tiny_model(tokenizer, 0, bos_token_id=None, max_position_embeddings=2048).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_jsonl(folder / "data" / "train.jsonl", drawn[:36])
    write_jsonl(folder / "data" / "validation.jsonl", drawn[36:])
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """One in which Python finds only what a GPU's machine has and what is taken there."""
    folder = tmp_path_factory.mktemp("hidden")
    allowed = with_requirements(listed("gpu_image.txt")) | listed("gpu_wheels.txt")
    hidden = [
        name
        for name, distributions in packages_distributions().items()
        if not allowed & set(map(normal, distributions)) and name not in ("agentrefine", "pip")
    ]
    (folder / "hidden.json").write_text(json.dumps(hidden))
    (folder / "sitecustomize.py").write_text(HIDES)
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def measured(inputs: Path, results: Path, environment: dict[str, str], *options: str) -> tuple[int, Results]:
    command = ["perf/gpu.sh", "--inputs", inputs, "--results", results, "--size", "tiny", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (results / "results.json").is_file(), done.stderr[-4000:]
    return done.returncode, Results.model_validate_json((results / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(1900)
def test_every_part_runs_without_what_the_machine_lacks(inputs, environment, tmp_path):
    for missing in ("prefect", "mlflow", "dvc", "openai", "great_expectations"):
        assert missing in json.loads((Path(environment["PYTHONPATH"]) / "hidden.json").read_text())
    plenty = [f"{part}=1000" for part in ("base", "checks", "lora", "full", "agents")]
    status, results = measured(inputs, tmp_path, environment, "--limit", *plenty, "--total", "1800")
    assert {name: part.state for name, part in results.parts.items()} == dict.fromkeys(
        ["base", "checks", "lora", "full", "agents"], "done"
    ), [part.note for part in results.parts.values()]
    assert status == 0

    checks = {check.name: check for check in results.parts["checks"].checks}
    reference = checks["eager, fp32"].losses
    assert len(reference) >= 2
    for name in ("sdpa, fp32", "sdpa, fp32, padding-free", "DistributedDataParallel"):
        assert checks[name].losses == pytest.approx(reference, abs=1e-4)
    assert checks["DistributedDataParallel"].note == "over gloo, 2 in all"
    assert all(check.equal or check.note for check in checks.values())
    assert results.parts["checks"].facts["bf16 product, TFLOP/s"] > 0

    multiplied = "parameters that a token is multiplied with"
    assert results.parts["lora"].facts[multiplied] > results.parts["full"].facts[multiplied]  # two layers and one
    for part in (results.parts["lora"], results.parts["full"]):
        ways = {speed.way: speed for speed in part.speeds}
        assert list(ways) == ["stage", "TRL, our labels", "Trainer, padded"]
        for speed in ways.values():
            assert speed.tokens_per_second == pytest.approx(speed.tokens / speed.seconds)
            assert 0 < speed.tokens < part.facts["tokens"]  # the first step is left out
            assert speed.trained_tokens_per_second < speed.tokens_per_second
            assert speed.mfu is None
            assert "CPU" in speed.mfu_note
            assert speed.by_trl == pytest.approx(speed.tokens_per_second / ways["TRL, our labels"].tokens_per_second)
        assert part.facts["FLOP a token"] > part.facts["least FLOP a token"] > 0
        assert part.facts["conversations"] == 8

    agents = results.parts["agents"]
    assert [tuned.variant for tuned in agents.tuned] == ["expert_only", "refinement"]
    expert, refinement = agents.tuned
    assert expert.tokens < refinement.tokens  # the mistakes are cut out of it
    tokenizer = load_tokenizer(inputs / "model")
    trained = [render(tokenizer, sample.messages(), "correct_turns", 2048) for sample in samples(16)]
    assert refinement.tokens == sum(len(row.ids) for row in trained)
    assert refinement.trained_tokens == sum(row.trained_tokens for row in trained)
    assert refinement.validation_loss < refinement.validation_loss_before
    assert [play.model for play in agents.plays] == ["chance", "base", "expert_only", "refinement"]
    assert all(
        play.success.n == 2 and play.success.low <= play.success.value <= play.success.high for play in agents.plays
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_part_over_its_limit_is_ended_and_the_next_ones_run(inputs, environment, tmp_path):
    options = ("--parts", "checks", "full", "--limit", "base=200", "checks=0.01", "full=300", "--total", "550")
    status, results = measured(inputs, tmp_path, environment, *options)
    states = {name: part.state for name, part in results.parts.items()}
    assert states == {"base": "done", "checks": "over its limit", "full": "done"}
    assert status == 1
    assert results.parts["checks"].checks == []
    assert "| checks | over its limit |" in (tmp_path / "results.md").read_text()


def test_the_versions_taken_along_are_those_of_the_project():
    locked = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    )  # fmt: skip
    versions = {normal(name): found.partition(" ")[0] for name, found in locked.items()}
    taken = [line for line in (ROOT / "perf/gpu_wheels.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(taken) > 10
    for line in taken:
        name, version = line.split("==")
        assert versions.get(normal(name), version) == version, name


def test_without_a_model_the_error_names_the_folder(tmp_path):
    with refused("model_missing", file=tmp_path):
        gpu_base.prepare(tmp_path, tmp_path / "base", tmp_path / "facts.json")


def test_the_least_flops_leave_out_masked_outputs_and_half_of_the_attention(inputs):
    config = load_base(inputs / "model").model.config
    width = config.num_attention_heads * config.head_dim
    everything = flops_per_token(multiplied_parameters(config), config.num_hidden_layers, width, 1000.0)
    attention = 6 * config.num_hidden_layers * width * 1000.0
    outputs = 6 * config.vocab_size * config.hidden_size
    assert least_flops_per_token(config, 1000.0, 1.0) == pytest.approx(everything - attention)
    assert least_flops_per_token(config, 1000.0, 0.25) == pytest.approx(everything - attention - 0.75 * outputs)


def test_the_tables_show_a_missing_figure_as_a_dash_and_rates_in_percent():
    half = Interval(value=0.5, low=0.1, high=0.9, n=4)
    play = Play(
        model="base", benchmark="babyai", success=half, progress=half, format_errors=half, stuck=half, seconds=3
    )
    speeds = [Speed(way="stage", out_of_memory=True), Speed(way="other", tokens_per_second=1234.5, mfu=0.456)]
    text = markdown(Results(size="gpu", parts={"lora": Part(state="done", speeds=speeds, plays=[play])}))
    assert "| stage | out of memory | - |" in text
    assert "| other | 1,234 | - | - | 45.6% |" in text
    assert "| babyai | base | 50% [10, 90] |" in text

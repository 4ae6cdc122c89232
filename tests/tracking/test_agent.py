"""The champion comes back from the registry: the same bits, full or as an adapter, and it plays."""

import re
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from agentrefine.base_model.base import make_reference
from agentrefine.evaluation.policy import Dialogue
from agentrefine.files import write_json
from agentrefine.game.conversation import Message
from agentrefine.params import Params
from agentrefine.tuning.cards import ReferenceCard
from agentrefine.tuning.models import load_tuned, model_digest
from agentrefine.tuning.train import tune
from tasks.tracking import runs
from tasks.tracking.agent import log_model, needed_base
from tasks.tracking.registry import register
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT
from tests.helpers.tuning_samples import job

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", params=["full", "lora"])
def model(request: pytest.FixtureRequest, base: Path, data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned model in a project's folder `models`, beside its base."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(base, project / "models/base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        tune(job(Path("models/base"), data_set, method=request.param, epochs=1), Path("models/refinement"))
    return project / "models/refinement"


@pytest.fixture
def champion(params: Params, client: MlflowClient, model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the model in the registry; its project's folder is gone from where it is loaded."""
    run_id = runs.model_run("refinement", model_digest(model), params)
    log_model(client, run_id, model, model.parent / "base", max_new_tokens=24)
    client.create_registered_model("agentrefine-agent")
    client.create_model_version("agentrefine-agent", f"runs:/{run_id}/model", run_id)
    client.set_registered_model_alias("agentrefine-agent", "champion", "1")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", params.tracking.uri)
    return "models:/agentrefine-agent@champion"


def test_the_champion_has_the_logits_of_the_tuned_model_bit_by_bit(
    champion: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = mlflow.pyfunc.load_model(champion).get_raw_model()
    monkeypatch.chdir(model.parent.parent)
    tuned = load_tuned(Path("models/refinement"))
    ids = torch.tensor([tuned.tokenizer("You are in the hall. Thought: look").input_ids])
    with torch.inference_mode():
        assert torch.equal(loaded.model(ids).logits, tuned.model(ids).logits)
    assert loaded.tokenizer.chat_template == tuned.tokenizer.chat_template


def test_the_champion_answers_conversations_as_it_plays(champion: str) -> None:
    loaded = mlflow.pyfunc.load_model(champion)
    conversations = [
        [{"role": "user", "content": "Goal: Fetch the lamp."}],
        [
            {"role": "user", "content": "You are in the hall."},
            {"role": "assistant", "content": "Thought: look\nAction: look"},
            {"role": "user", "content": "You see a lamp."},
        ],
    ]
    replies = loaded.predict(pd.DataFrame({"messages": conversations}))
    messages = [[Message.model_validate(message) for message in conversation] for conversation in conversations]
    policy = loaded.get_raw_model().policy
    assert replies == [policy.act([Dialogue(str(n), found)])[0].text for n, found in enumerate(messages)]


def test_the_champion_is_described_by_a_signature_and_holds_no_code(champion: str, tmp_path: Path) -> None:
    loaded = mlflow.pyfunc.load_model(champion)
    assert loaded.metadata.signature.inputs.input_names() == ["messages"]
    assert loaded.metadata.signature.outputs.input_names() == ["reply"]
    kept = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert not [path.name for path in kept if path.suffix in (".py", ".pkl", ".pt", ".bin")]


def test_the_example_in_the_documents_plays_an_episode(champion: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/mlflow.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert champion in snippet
    exec(compile(snippet, "docs/mlflow.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "Goal: " in printed
    assert printed.count(">") == 20 or "True" in printed


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_an_adapter_on_a_base_elsewhere_needs_it_where_its_version_says(
    params: Params, client: MlflowClient, base: Path, data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:  # fmt: skip
    shutil.copytree(base, tmp_path / "bases/small")
    path = str(tmp_path / "bases/small") if kind == "absolute" else "bases/small"
    make_reference(params.base_model.model_copy(update={"path": path}), Path("models/base"))
    tune(job(Path("models/base"), data_set, method="lora", epochs=1), Path("models/expert_only"))
    run_id = runs.model_run("expert_only", model_digest("models/expert_only"), params)
    log_model(client, run_id, Path("models/expert_only"), Path("models/base"), max_new_tokens=24)
    register("expert_only", "digest", run_id, params, episodes=Path("none"), baseline_episodes=Path("none"))
    description = client.get_model_version("agentrefine-agent", "1").description
    assert f"It needs the base {path}, with the digest {model_digest(base)}, whose weights are not kept" in description
    folder = client.download_artifacts(run_id, "model", str(tmp_path))
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        here = mlflow.pyfunc.load_model(folder).get_raw_model().model(ids).logits
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        if kind == "absolute":
            assert torch.equal(mlflow.pyfunc.load_model(folder).get_raw_model().model(ids).logits, here)
            shutil.rmtree(path)
        with refused("model_missing", model=path):
            mlflow.pyfunc.load_model(folder)


def test_a_version_needs_no_base_that_it_holds(model: Path) -> None:
    assert needed_base(model, model.parent / "base") == ""


def test_a_base_of_the_hub_is_fetched_from_there(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    card = ReferenceCard(path="HuggingFaceTB/SmolLM2-135M-Instruct", digest="ab12", chat_template=[])
    write_json(tmp_path / "base/card.json", card.model_dump())
    said = needed_base(tmp_path, tmp_path / "base")
    assert said.startswith("It needs the base HuggingFaceTB/SmolLM2-135M-Instruct of the hub, with the digest ab12")

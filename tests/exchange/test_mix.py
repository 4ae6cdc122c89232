"""The stage mix: general chat among the games, in the share that was asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agentrefine.exchange.mix import mix
from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import PublishedMessage, Sample
from agentrefine.game.counts import MixCounts
from agentrefine.params import load_params
from flows.pipeline import stages
from flows.workspace import Workspace
from tasks.params import write_resolved
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT


def game(number: int) -> Sample:
    texts = [
        ("human", f"Instructions {number}.", None),
        ("gpt", "OK", False),
        ("human", "Goal", None),
        ("gpt", "go", True),
    ]
    return Sample(
        id=f"game-{number}",
        persona_id="p",
        conversations=[PublishedMessage(from_=sender, value=text, loss=loss) for sender, text, loss in texts],
    )


def write_games(folder: Path, count: int) -> Path:
    write_jsonl(folder / "train.jsonl", map(game, range(count)))
    write_jsonl(folder / "validation.jsonl", map(game, range(1000, 1003)))
    return folder


def write_chats(file: Path, count: int) -> Path:
    chats = [
        {
            "id": f"chat-{number}",
            "conversations": [
                {"from": "human", "value": f"What is {number}?"},
                {"from": "gpt", "value": "A number."},
            ],
        }
        for number in range(count)
    ]
    file.write_text(json.dumps(chats), encoding="utf-8")
    return file


def ids(folder: Path) -> list[str]:
    return [sample.id for sample in read_jsonl(folder / "train.jsonl", Sample)]


def mixed(
    folder: Path, name: str = "out", *, games: int = 80, chats: int = 50, share: float = 0.2, seed: int = 7
) -> Path:
    data_set, chat = write_games(folder / "games", games), write_chats(folder / "chat.json", chats)
    mix(data_set, chat, share, seed, folder / name)
    return folder / name


@pytest.mark.parametrize(("games", "share", "chats"), [(80, 0.2, 20), (7, 0.5, 7), (3, 0.9, 27), (10, 0.001, 1)])
def test_chats_are_the_share_of_the_training_samples_that_was_asked_for(
    tmp_path: Path, games: int, share: float, chats: int
) -> None:
    out = mixed(tmp_path, games=games, share=share)
    found = ids(out)
    assert sorted(i for i in found if i.startswith("game")) == sorted(f"game-{n}" for n in range(games))
    assert len({i for i in found if i.startswith("chat")}) == chats
    assert len(found) == games + chats
    counts = MixCounts.model_validate_json((out / "metrics.json").read_text())
    assert (counts.games, counts.chats, counts.chats_available, counts.validation) == (games, chats, 50, 3)
    assert counts.chat_share == pytest.approx(chats / (games + chats))


def test_games_are_unchanged_and_every_reply_of_a_chat_is_trained(tmp_path: Path) -> None:
    samples = list(read_jsonl(mixed(tmp_path) / "train.jsonl", Sample))
    games = set((tmp_path / "games/train.jsonl").read_text().splitlines())
    assert games < set((tmp_path / "out/train.jsonl").read_text().splitlines())
    replies = [m for s in samples if s.id.startswith("chat") for m in s.conversations if m.from_ == "gpt"]
    assert replies
    assert all(reply.loss for reply in replies)


def test_validation_samples_are_those_of_the_games_byte_for_byte(tmp_path: Path) -> None:
    out = mixed(tmp_path)
    assert (out / "validation.jsonl").read_bytes() == (tmp_path / "games/validation.jsonl").read_bytes()


def test_chats_stand_among_the_games_and_come_from_the_whole_file(tmp_path: Path) -> None:
    found = ids(mixed(tmp_path, games=400, chats=1000))
    halves = [sum(i.startswith("chat") for i in half) for half in (found[:250], found[250:])]
    assert min(halves) > 30
    drawn = [int(i.removeprefix("chat-")) for i in found if i.startswith("chat")]
    assert drawn == sorted(drawn)
    assert 20 < sum(number < 500 for number in drawn) < 80


def test_one_seed_gives_the_same_bytes_and_another_seed_other_chats(tmp_path: Path) -> None:
    first, again, other = mixed(tmp_path, "a"), mixed(tmp_path, "b"), mixed(tmp_path, "c", seed=8)
    assert (first / "train.jsonl").read_bytes() == (again / "train.jsonl").read_bytes()
    assert set(ids(first)) != set(ids(other))


def test_too_few_chats_are_reported_with_how_many_there_are_and_what_share_they_allow(tmp_path: Path) -> None:
    with refused("too_few_samples", file=tmp_path / "chat.json", found=19, expected=20, largest_share=0.191):
        mixed(tmp_path, games=80, chats=19)
    assert not (tmp_path / "out").exists()
    mixed(tmp_path, games=80, chats=19, share=0.191)


def test_chats_that_cannot_be_trained_on_are_not_drawn_but_counted(tmp_path: Path) -> None:
    chat = write_chats(tmp_path / "chat.json", 1)
    broken = {"conversations": [{"from": "human", "value": "Hello?"}]}
    chat.write_text(json.dumps([broken, *json.loads(chat.read_text()), broken]), encoding="utf-8")
    counts = mix(write_games(tmp_path / "games", 1), chat, 0.5, 7, tmp_path / "out")
    assert (counts.chats, counts.chats_available, sum(counts.chats_left_out.values())) == (1, 1, 2)


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("games/train.jsonl", "stage_not_run"),
        ("games/validation.jsonl", "stage_not_run"),
        ("chat.json", "file_missing"),
    ],
)
def test_a_missing_file_is_named_and_nothing_is_written(tmp_path: Path, missing: str, code: str) -> None:
    data_set, chat = write_games(tmp_path / "games", 4), write_chats(tmp_path / "chat.json", 4)
    (tmp_path / missing).unlink()
    with refused(code, file=tmp_path / missing):
        mix(data_set, chat, 0.2, 7, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_game_is_named_by_its_line_and_leaves_an_earlier_mix_as_it_was(tmp_path: Path) -> None:
    out = mixed(tmp_path)
    before = (out / "train.jsonl").read_bytes()
    with (tmp_path / "games/train.jsonl").open("a") as handle:
        handle.write("{}\n")
    with refused("stage_file_broken", file=tmp_path / "games/train.jsonl", line=81):
        mix(tmp_path / "games", tmp_path / "chat.json", 0.2, 7, out)
    assert (out / "train.jsonl").read_bytes() == before


def test_a_data_set_without_games_is_refused(tmp_path: Path) -> None:
    with refused("no_samples", file=tmp_path / "games/train.jsonl"):
        mixed(tmp_path, games=0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project whose params.yaml asks for one mix, with this repository's stage."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["mix"] = {"chat20": {"data_set": "data/dataset", "chat": "chat.json", "share": 0.2}}
    values["tuning"]["variants"]["mixed"] = {"train_on": "correct_turns", "data_set": "data/mix/chat20"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    definition = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["mix"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"mix": definition}}))
    for name in ("agentrefine", "tasks", "flows"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_games(tmp_path / "data/dataset", 8)
    write_chats(tmp_path / "chat.json", 9)
    monkeypatch.chdir(tmp_path)
    write_resolved()
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    return tmp_path


def test_the_pipeline_mixes_before_it_tunes_and_dvc_knows_what_a_mix_depends_on(project: Path) -> None:
    addresses = [stage.address for stage in stages(load_params())]
    assert addresses.index("quality_gate") < addresses.index("mix@chat20") < addresses.index("tuning@mixed")
    chosen = load_params().mix["chat20"]
    work = Workspace()
    assert not work.up_to_date("mix@chat20")
    work.run(
        "mix@chat20", lambda: mix(Path(chosen.data_set), Path(chosen.chat), chosen.share, 7, Path("data/mix/chat20"))
    )
    assert work.up_to_date("mix@chat20")
    write_chats(project / "chat.json", 10)
    assert not work.up_to_date("mix@chat20")


@pytest.mark.slow
def test_dvc_runs_the_stage(project: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project), "PREFECT_HOME": str(project / ".prefect")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["dvc", "repro", "mix@chat20"], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(ids(project / "data/mix/chat20")) == 10

"""Where Prefect keeps its state: in the folder that a command runs in, unless the user says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

SHOWN = "import flows\nfrom prefect.settings import PREFECT_API_URL, PREFECT_HOME as H\nprint(H.value())\n"
SHOWN += "print(PREFECT_API_URL.value())"


def home_and_api(folder: Path, **environment: str) -> list[str]:
    """Prefect's home and API as a command in a folder sees them; the user's own home is `user` beside it."""
    folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    kept |= {"PYTHONPATH": str(ROOT), "HOME": str(folder.parent / "user"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN], cwd=folder, env=kept, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.slow
def test_each_clone_has_its_own_and_what_the_user_sets_stays(tmp_path: Path) -> None:
    assert home_and_api(tmp_path / "one") == [str(tmp_path / "one/.prefect"), "None"]
    assert home_and_api(tmp_path / "two") == [str(tmp_path / "two/.prefect"), "None"]
    assert home_and_api(tmp_path / "one", PREFECT_HOME=str(tmp_path / "mine")) == [str(tmp_path / "mine"), "None"]


@pytest.mark.slow
def test_a_server_that_the_users_profile_names_is_used(tmp_path: Path) -> None:
    profiles = tmp_path / "user/.prefect/profiles.toml"
    profiles.parent.mkdir(parents=True)
    profiles.write_text('active = "lab"\n\n[profiles.lab]\nPREFECT_API_URL = "http://127.0.0.1:4999/api"\n')
    assert home_and_api(tmp_path / "one") == [str(tmp_path / "one/.prefect"), "http://127.0.0.1:4999/api"]

"""Writing files: whole or not at all, and a full disk is said in one sentence."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_disk import small_disk_at

from agentrefine.errors import UserError
from agentrefine.files import atomic_folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    with small_disk_at(tmp_path / "disk", "256k"):
        yield tmp_path / "disk"


def test_weights_that_do_not_fit_on_the_disk_leave_nothing_behind(small_disk: Path) -> None:
    with pytest.raises(UserError, match="the disk is full"), atomic_folder(small_disk / "model") as folder:
        save_file({"weight": torch.zeros(1_000_000)}, str(folder / "model.safetensors"))
    assert not list(small_disk.iterdir())


def test_a_folder_takes_its_place_only_when_it_is_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(UserError, match="cannot be written"), atomic_folder(tmp_path / "model") as folder:  # noqa: PT012  (the body fails midway)
        (folder / "b").mkdir()
        (folder / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a").read_text() == "old"

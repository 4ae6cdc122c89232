"""The documents' own form."""

from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

MAX_LENGTH = 120
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("document", sorted(DOCUMENTS), ids=lambda path: path.name)
def test_no_line_of_prose_is_longer_than_one_of_code(document: Path) -> None:
    """Tables, code blocks and a line that is one word, such as a link, are not prose."""
    blocks = document.read_text(encoding="utf-8").split("```")
    lines = [line for block in blocks[::2] for line in block.splitlines()]
    prose = [line for line in lines if not line.lstrip().startswith("|") and " " in line.strip().removeprefix("- ")]
    assert len(blocks) % 2
    assert [line for line in prose if len(line) > MAX_LENGTH] == []

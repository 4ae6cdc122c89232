"""Where things are: this repository, the tests' own data, and inputs that may lie beside the repository."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"

"""The report in the Prefect UI: a page that holds its images, and the table of results."""

import base64
import mimetypes
import re
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from agentrefine.params import Params
from agentrefine.report.document import headline
from agentrefine.report.inputs import Results
from agentrefine.report.tables import COLUMNS, result_rows

IMAGE = re.compile(r"!\[(?P<title>[^\]]*)\]\((?P<file>[^):]+)\)")
"""An image of a Markdown page that lies beside it."""


def show_report(params: Params, results: Results, page: Path) -> None:
    """Keep the report as a page, and its main table."""
    found = " ".join(headline(params, results))
    create_markdown_artifact(
        with_images(page.read_text(encoding="utf-8"), page.parent),
        key="report",
        description=f"{found} The report as one file: {page.with_suffix('.html')}",
    )
    heads = ["benchmark", "model", *(heading for heading, _ in COLUMNS.values()), "n"]
    rows = [*result_rows(results), *result_rows(results, at_chance=True)]
    create_table_artifact(
        [dict(zip(heads, row, strict=True)) for row in rows],
        key="results",
        description=f"{found} Percent with 95% intervals; n is the number of episodes.",
    )


def with_images(text: str, folder: Path) -> str:
    """A Markdown page with its images in it: the Prefect UI shows pages, and has no access to the files beside them."""

    def embedded(found: re.Match[str]) -> str:
        file = folder / found["file"]
        kind = mimetypes.guess_type(file)[0]
        return f"![{found['title']}](data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()})"

    return IMAGE.sub(embedded, text)

"""The report as a task."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from agentrefine.params import Params
from agentrefine.report.document import write_report as write_files
from agentrefine.report.inputs import Results
from agentrefine.report.viewer import write_viewers

REPORTS = Path("reports")


@task(name="report")
def write_report(params: Params) -> Results:
    """Write the report and the episode viewers from what the stages left, and keep the report as an artifact.

    Raises:
        UserError: a stage has not been run.
    """
    results = write_files(params)
    write_viewers(params)
    create_markdown_artifact((REPORTS / "report.md").read_text(encoding="utf-8"), key="report")
    return results

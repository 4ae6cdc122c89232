"""The report as a task."""

from pathlib import Path

from prefect import task

from agentrefine.params import Params
from agentrefine.report.document import write_report as write_files
from agentrefine.report.inputs import Results
from agentrefine.report.viewer import write_viewers
from tasks.tracking.report_page import show_report

REPORTS = Path("reports")


@task(name="report")
def write_report(params: Params) -> Results:
    """Write the report and the episode viewers from what the stages left, and show the report in Prefect.

    Raises:
        UserError: a stage has not been run.
    """
    results = write_files(params)
    write_viewers(params)
    show_report(params, results, REPORTS / "report.md")
    return results

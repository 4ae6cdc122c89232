"""Report: refinement against the baseline on every environment, and the champion: python -m flows.report"""

from rich.console import Console

from agentrefine.params import Params
from agentrefine.report.document import evidence, next_steps, title
from agentrefine.report.inputs import Project, load_results
from agentrefine.report.tables import at_chance_line, notes, terminal_table, what_n_counts
from flows.command import run, stage_flow
from flows.evaluation import player
from tasks.report import write_report
from tasks.tracking.comparison import register_models


def report_and_register(params: Params) -> None:
    """Write the report, its figures and the viewers of episodes into `reports/`; move the registry's aliases.

    Raises:
        UserError: a stage has not been run, or a tracking store cannot be used.
    """
    results = write_report(params)
    register_models(params, results, {model: player(model, params).digest for model in params.evaluation.players})


report = stage_flow("report", report_and_register)


def print_report(params: Params) -> None:
    """The result in the terminal: in one line, as a table, what it rests on, and where to look next."""
    results = load_results(params, Project())
    console = Console()
    console.print(title(params, results), style="bold", highlight=False, markup=False)
    console.print(terminal_table(results))
    lines = [at_chance_line(results), *evidence(params, results), *what_n_counts(results), *notes(results)]
    for line in filter(None, lines):
        console.print(line, highlight=False, markup=False)
    for step in next_steps(params):
        console.print(f"{step['command']}  [dim]{step['shows']}[/dim]", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run(report, __doc__)

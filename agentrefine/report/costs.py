"""What every stage took: calls or steps, tokens, dollars and time, for one table."""

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Literal, NamedTuple

from agentrefine.game.counts import UNKNOWN, Calls, CallsEach, Cost
from agentrefine.llm.completion import Usage
from agentrefine.llm.spending import dollars, load_prices
from agentrefine.params import Params
from agentrefine.params.evaluation import CHANCE, EndpointParams
from agentrefine.report.figures import label
from agentrefine.report.inputs import PlayTotals, Results
from agentrefine.report.tables import count

COLUMNS = ("stage", "work", "tokens read", "tokens written", "dollars", "time (h:mm:ss)")

Amount = float | Literal["unknown"] | None
"""How much of something a stage took: `UNKNOWN` where nothing says it, None where a stage takes none of it."""


class StageCost(NamedTuple):
    """A row of the table.

    Example: `StageCost("synthesis", "5,446 calls", 17686538, 4447623, 0.0, 71.5)`

    Attributes:
        stage: the stage, with its key.
        work: what it did, counted.
        tokens_read, tokens_written: of prompts and replies; where a model is trained, of its samples.
        dollars: what endpoints charge by the list of prices.
        seconds: of wall-clock time.
    """

    stage: str
    work: str
    tokens_read: Amount
    tokens_written: Amount
    dollars: Amount
    seconds: Amount


def stage_costs(params: Params, results: Results) -> list[StageCost]:
    """What each stage took, in the order in which they run; the report itself is not among them."""
    return [
        *_of_the_data(results),
        *_of_further_data(results),
        *_of_tuning(results),
        *_of_evaluation(params, results),
    ]


def cost_rows(params: Params, results: Results) -> list[list[str]]:
    """The stages' costs as text, with their sums in the last row."""
    found = stage_costs(params, results)
    rows = [[c.stage, c.work, *_cells(c.tokens_read, c.tokens_written, c.dollars, c.seconds)] for c in found]
    return [*rows, ["total", "", *_totals(found)]]


def cost_notes(results: Results) -> list[str]:
    """What a game took, and what of the table is estimated, missing or counted in part."""
    both = results.repair.with_synthesis
    sentences = [
        f"A {unit} took {each.calls:.2f} calls, {each.tokens:,.0f} tokens and {_money(each.cost_usd)}, with its share "
        "of what was rejected."
        for unit, each in (("kept game", both.per_kept_trajectory), ("persona", both.per_persona))
        if isinstance(each, CallsEach)
    ]
    if both.calls_with_estimated_tokens:
        estimated = f"{count(both.calls_with_estimated_tokens)} of {count(both.calls)} calls"
        sentences.append(f"The tokens of {estimated} are estimated, because the endpoint did not count them.")
    if both.unanswered:
        sentences.append(f"{count(both.unanswered)} of {count(both.calls)} calls had no answer.")
    return [
        *sentences,
        "Dollars are what endpoints charge; the time of this machine has no price here.",
        "Time is that of the longest run that ended with these results: what an interrupted run had done before is "
        "counted for evaluation only. Tunings that ran side by side count in full each.",
    ]


def _of_the_data(results: Results) -> Iterator[StageCost]:
    seconds = results.stage_seconds
    yield _teaching("synthesis", results.synthesis, seconds["synthesis"])
    judged = f"{count(results.verification.judged)} answers judged"
    yield StageCost("verification", judged, None, None, None, seconds["verification"])
    yield _teaching("repair", results.repair, seconds["repair"])
    pretrained = results.pretraining_tokens
    made = "taken as it is" if pretrained is None else f"{count(pretrained)} tokens of pretraining"
    yield StageCost("base model", made, pretrained, None, None, seconds["base_model"])
    games = f"{count(results.repair.kept)} games judged"
    yield StageCost("quality gate", games, None, None, None, seconds["quality_gate"])


def _of_further_data(results: Results) -> Iterator[StageCost]:
    """The stages that make further data sets; they ask no endpoint."""
    for name, mixed in results.mixes.items():
        work = f"{count(mixed.games + mixed.chats)} samples"
        yield StageCost(f"mix, {label(name)}", work, None, None, None, results.stage_seconds[f"mix@{name}"])
    for name, made in results.on_policy.items():
        work = f"{count(made.played)} games played"
        yield StageCost(f"on policy, {label(name)}", work, None, None, None, results.stage_seconds[f"on_policy@{name}"])


def _teaching(stage: str, calls: Calls, seconds: Amount) -> StageCost:
    asked = f"{count(calls.calls)} calls"
    return StageCost(stage, asked, calls.prompt_tokens, calls.completion_tokens, calls.cost_usd, seconds)


def _of_tuning(results: Results) -> Iterator[StageCost]:
    for variant, tuned in results.tuning.items():
        seconds = results.stage_seconds[f"tuning@{variant}"]
        steps = f"{count(tuned.steps)} steps"
        yield StageCost(f"tuning, {label(variant)}", steps, tuned.tokens, None, None, seconds)


def _of_evaluation(params: Params, results: Results) -> Iterator[StageCost]:
    for model, played in results.played.items():
        endpoint = params.evaluation.endpoints.get(model)
        read, written = (None, None) if model == CHANCE else (played.prompt_tokens, played.completion_tokens)
        paid = None if endpoint is None else _charged(endpoint, model, played)
        episodes = f"{count(played.episodes)} episodes"
        yield StageCost(f"evaluation, {label(model)}", episodes, read, written, paid, played.seconds)


def _charged(endpoint: EndpointParams, name: str, played: PlayTotals) -> Cost:
    """US dollars of an endpoint's replies, by the price that its evaluation is limited by."""
    price = load_prices(endpoint.prices, f"evaluation.endpoints.{name}").models.get(endpoint.model)
    used = Usage(prompt_tokens=played.prompt_tokens, completion_tokens=played.completion_tokens)
    return UNKNOWN if price is None else price.cost(used)


def _cells(*amounts: Amount) -> list[str]:
    return [_text(amount, form) for amount, form in zip(amounts, _FORMS, strict=True)]


def _totals(found: list[StageCost]) -> list[str]:
    """The sums; where a stage's part is unknown, what is known of them."""
    columns = zip(*((c.tokens_read, c.tokens_written, c.dollars, c.seconds) for c in found), strict=True)
    return [_total(column, form) for column, form in zip(columns, _FORMS, strict=True)]


def _total(column: Iterable[Amount], form: Callable[[float], str]) -> str:
    amounts = [amount for amount in column if amount is not None]
    known = [amount for amount in amounts if amount != UNKNOWN]
    if amounts and not known:
        return UNKNOWN
    return ("" if len(known) == len(amounts) else "at least ") + form(sum(known))


def _text(amount: Amount, form: Callable[[float], str]) -> str:
    if amount is None:
        return "-"
    return UNKNOWN if amount == UNKNOWN else form(amount)


def _money(cost: Cost) -> str:
    return "an unknown cost" if cost == UNKNOWN else dollars(cost)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


_FORMS: tuple[Callable[[float], str], ...] = (lambda n: count(int(n)), lambda n: count(int(n)), dollars, _clock)

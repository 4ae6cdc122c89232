"""What a pilot of a few personas shows: the cost of a whole data set in calls, tokens, dollars and hours, and whether
enough is kept for the rest to be worth asking for.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import variance
from typing import NamedTuple

from scipy import stats

from agentrefine.files import short_hash
from agentrefine.game.personas import Persona
from agentrefine.game.trajectory import DroppedSample
from agentrefine.llm.completion import TRUNCATED, field_of_thoughts
from agentrefine.llm.spending import dollars
from agentrefine.params.teacher import TeacherParams
from agentrefine.synthesis.accounts import PersonaAccount
from agentrefine.synthesis.repair import Repaired

LEVEL = 0.95
"""The share of totals that a prediction interval holds."""

MAX_REASONS = 3
"""How many reasons are named why games were dropped."""

MAX_SHOWN = 2_000
"""Characters of a raw answer that are shown."""

MINUTE, HOUR = 60, 3600


class Expected(NamedTuple):
    """A total that is not known yet, with the ends of its 95% prediction interval; None where none can be given."""

    value: float
    low: float | None
    high: float | None

    def changed(self, change: Callable[[float], float]) -> "Expected":
        """The total with value and ends changed alike."""
        low, high = (None if end is None else change(end) for end in (self.low, self.high))
        return Expected(change(self.value), low, high)

    def written(self, form: Callable[[float], str] = "{:,.0f}".format) -> str:
        """The total for a reader, with its interval where that says something."""
        if self.low is None or self.high is None or self.low == self.high:
            return form(self.value)
        return f"{form(self.value)} [{form(self.low)}, {form(self.high)}]"


class Pace(NamedTuple):
    """How fast calls are answered.

    Attributes:
        seconds_per_call: of the pilot's calls, while others were out; None where their times are not known.
        in_flight: calls at the same time, at most.
        requests_per_minute, tokens_per_minute: limits; None: none.
        rounds_of_batches: how many rounds of batches, of up to a day each, may be needed; 0 where calls go out one by
            one.
    """

    seconds_per_call: float | None
    in_flight: int = 1
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    rounds_of_batches: int = 0

    @classmethod
    def of(cls, params: TeacherParams, seconds_per_call: float | None, calls_per_sample: int) -> "Pace":
        """The pace of a teacher that answers as fast as it has answered the pilot."""
        limits = (params.concurrency, params.requests_per_minute, params.tokens_per_minute)
        return cls(seconds_per_call, *limits, calls_per_sample if params.transport == "batch" else 0)

    def sentence(self, calls: float, tokens: float) -> str:
        """How long so many calls take, and by what."""
        if self.rounds_of_batches:
            return f"up to 24 hours for each of at most {self.rounds_of_batches} rounds of batches"
        if self.seconds_per_call is None:
            return "time unknown, as that of the pilot's answers is"
        each = f"{self.seconds_per_call:.1f}" if self.seconds_per_call < 10 else f"{self.seconds_per_call:.0f}"
        limits = [(calls * self.seconds_per_call / self.in_flight, f"{each} s a call, {self.in_flight} at once")]
        if self.requests_per_minute:
            limits.append((calls * MINUTE / self.requests_per_minute, f"{self.requests_per_minute:,} calls a minute"))
        if self.tokens_per_minute:
            limits.append((tokens * MINUTE / self.tokens_per_minute, f"{self.tokens_per_minute:,} tokens a minute"))
        seconds, reason = max(limits)
        return f"about {_duration(seconds)} ({reason})"


class Forecast(NamedTuple):
    """The cost of all personas together, the pilot included.

    Attributes:
        pilot: how many personas the forecast was made from.
        personas: how many there are.
        calls, prompt_tokens, completion_tokens, kept: of all of them.
        cost: in US dollars; None when a price is not known.
        time: how long it takes, as a part of the sentence.
    """

    pilot: int
    personas: int
    calls: Expected
    prompt_tokens: Expected
    completion_tokens: Expected
    kept: Expected
    cost: Expected | None
    time: str

    def sentence(self) -> str:
        """The forecast for a reader."""
        cost = "unknown, as a price is not known" if self.cost is None else self.cost.written(dollars)
        whose = f"{self.personas:,} persona{'s' * (self.personas != 1)}"
        if self.pilot == self.personas:
            head = f"for {whose}, with whom the pilot has finished, so that nothing is estimated but the time"
        elif self.pilot == 1:
            head = f"forecast for {whose} from a pilot of 1 (no intervals: one does not show how personas differ)"
        else:
            head = f"forecast for {whose} from a pilot of {self.pilot} (95% intervals)"
        tokens = f"{self.prompt_tokens.written()} prompt and {self.completion_tokens.written()} completion tokens"
        return (
            f"{head}: cost {cost}; {self.time}; {self.calls.written()} calls; {tokens}; "
            f"{self.kept.written()} trajectories kept"
        )


def pilot_personas(personas: Iterable[Persona], count: int) -> list[Persona]:
    """Some of the personas, drawn by a hash of their ids: the same ones in every order of the file."""
    return heapq.nsmallest(count, personas, key=lambda persona: short_hash("pilot", persona.id))


def forecast(pilot: Sequence[PersonaAccount], personas: int, paid: float | None, pace: Pace) -> Forecast:
    """The cost of `personas` personas, from that of some of them.

    Args:
        pilot: at least one account.
        personas: how many there are, those of the pilot included.
        paid: what the pilot itself cost in US dollars, which is more than its accounts say where the rest goes through
            the Batch API; None when it is not known.
        pace: how fast calls are answered.
    """
    costs = [account.cost_usd for account in pilot if account.cost_usd is not None]
    known = paid is not None and len(costs) == len(pilot)
    extra = paid - sum(costs) if paid is not None else 0.0
    kept = _total([account.kept for account in pilot], personas)
    most = personas * pilot[0].samples
    calls = _total([account.calls for account in pilot], personas)
    prompt, completion = (
        _total([getattr(account, name) for account in pilot], personas)
        for name in ("prompt_tokens", "completion_tokens")
    )
    return Forecast(
        pilot=len(pilot),
        personas=personas,
        calls=calls,
        prompt_tokens=prompt,
        completion_tokens=completion,
        kept=kept.changed(lambda number: min(number, most)),
        cost=_total(costs, personas).changed(lambda number: number + extra) if known else None,
        time=pace.sentence(calls.value, prompt.value + completion.value),
    )


class Shortfall(NamedTuple):
    """A pilot that kept fewer of its games than it should.

    Attributes:
        kept, samples: how many of how many.
        sentences: that, which rules were broken most often, and what may help.
        answer: one raw answer that broke the first of these rules, with a line that says whose.
    """

    kept: int
    samples: int
    sentences: str
    answer: str


def shortfall(pilot: Sequence[Repaired], personas: int, min_kept_share: float) -> Shortfall | None:
    """What is wrong with a pilot that kept none of its games, or less than a share of them; None where nothing is.

    Args:
        pilot: the end of each of its samples.
        personas: how many they are of.
        min_kept_share: the least share to be kept.
    """
    dropped = [(sample.outcome, sample) for sample in pilot if isinstance(sample.outcome, DroppedSample)]
    kept = len(pilot) - len(dropped)
    if not dropped or (kept and kept >= min_kept_share * len(pilot)):
        return None
    first = {outcome.rule: (outcome, sample) for outcome, sample in reversed(dropped)}
    common = Counter(outcome.rule for outcome, _ in dropped).most_common(MAX_REASONS)
    reasons = [f"{rule} in {count} of {len(dropped)} ({first[rule][0].message})" for rule, count in common]
    answers = [attempt for sample in pilot for attempt in sample.attempts]
    fields = Counter(filter(None, (field_of_thoughts(attempt.finish_reason) for attempt in answers)))
    cut = sum(attempt.finish_reason == TRUNCATED for attempt in answers)
    hints = [
        f"{count} of {len(answers)} answers have no content but stand whole in the field {field}: turn thinking off by "
        "extra_body of the roles, or start the server with the reasoning parser of this model, or with none."
        for field, count in fields.most_common(1)
    ]
    if cut:
        hints.append(f"{cut} of {len(answers)} answers were cut at max_tokens: raise it, or turn thinking down.")
    number = f"{kept} ({kept / len(pilot):.0%})" if kept else "none"
    head = f"teacher: the pilot of {personas} personas kept {number} of its {len(pilot)} samples."
    sentences = " ".join([head, f"Most often: {'; '.join(reasons)}.", *hints])
    return Shortfall(kept, len(pilot), sentences, _raw_answer(common[0][0], first[common[0][0]][1]))


def _raw_answer(rule: str, sample: Repaired) -> str:
    """The answer that a sample was dropped for, as it came; what a terminal would obey is left out."""
    last = sample.attempts[-1]
    text = "".join(letter for letter in last.text if letter.isprintable() or letter in "\n\t").strip()
    rest = f"\n[... {len(text) - MAX_SHOWN:,} more characters]" if len(text) > MAX_SHOWN else ""
    whose = f"persona {last.persona_id}, sample {last.sample}, call {last.call}, {last.kind}"
    head = f"An answer that broke {rule} ({whose}):"
    return f"{head}\n\n{text[:MAX_SHOWN] or '(it is empty)'}{rest}"


def _duration(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{max(1, round(seconds)):.0f} seconds"
    return f"{seconds / MINUTE:.0f} minutes" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} hours"


def _total(taken: Sequence[float], personas: int) -> Expected:
    """The sum over all personas: what the pilot took is known, the rest is like it (Student's t for a new sum).

    Without an interval where the pilot is of one persona.
    """
    count, rest = len(taken), personas - len(taken)
    known, expected = sum(taken), rest * sum(taken) / count if count else 0.0
    if not rest:
        return Expected(known, known, known)
    if count < 2:
        return Expected(known + expected, None, None)
    spread = math.sqrt(variance(taken) * (rest**2 / count + rest)) * float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    return Expected(known + expected, max(known, known + expected - spread), known + expected + spread)

"""What `perf/gpu.sh` measured: one record, written after every figure as JSON and as Markdown."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from agentrefine.files import atomic_write, write_json

State = Literal["running", "done", "failed", "over its limit", "left out"]


class Check(BaseModel):
    """A short training whose losses are compared with those of a reference.

    Attributes:
        name: what differs from the reference.
        losses: of every step, nats per trained token; empty where it was not run.
        difference: the largest to the reference's losses, by these.
        tolerance: up to which losses count as equal.
        note: why it was not run, or what it ran on.
    """

    name: str
    losses: list[float] = []
    difference: float | None = None
    tolerance: float
    note: str = ""

    @property
    def equal(self) -> bool | None:
        """Whether the losses are those of the reference; None where it was not run."""
        return None if self.difference is None else self.difference <= self.tolerance


class Speed(BaseModel):
    """How fast one way tuned.

    Attributes:
        way: what was run.
        out_of_memory: whether it did not fit, with activation checkpointing either; then all else is None.
        activation_checkpointing: whether activations were computed again; it is tried without first.
        tokens_per_second: read, without padding, by the clock; the first step is left out.
        trained_tokens_per_second: of these, those with a label.
        padding: share of the computed positions that hold no token.
        tokens, steps, seconds: what the speed was measured over.
        mfu: PaLM's model FLOPs by the device's peak; None where the peak is not known (`mfu_note`).
        mfu_least: the same of the least FLOPs: causal attention, and outputs at trained tokens only.
        gpu_bytes: most that torch had allocated on the GPU; 0 without one.
        by_trl, by_trainer: this speed by that of TRL and of the padded Trainer; None where those have none.
    """

    way: str
    out_of_memory: bool = False
    activation_checkpointing: bool | None = None
    tokens_per_second: float | None = None
    trained_tokens_per_second: float | None = None
    padding: float | None = None
    tokens: int | None = None
    steps: int | None = None
    seconds: float | None = None
    mfu: float | None = None
    mfu_least: float | None = None
    mfu_note: str = ""
    gpu_bytes: int | None = None
    by_trl: float | None = None
    by_trainer: float | None = None


class Tuned(BaseModel):
    """One variant's tuning.

    Attributes:
        variant: its name.
        tokens, trained_tokens, steps: of all epochs.
        seconds: of the training loop and the first look at the validation games.
        tokens_per_second, mfu: of the loop alone, without its first step; no MFU where the device's peak is not known.
        validation_loss_before, validation_loss: nats per trained token of the validation games, as the variant trains
            them: two variants' losses are of other tokens.
    """

    variant: str
    tokens: int
    trained_tokens: int
    steps: int
    seconds: float
    tokens_per_second: float
    mfu: float | None
    validation_loss_before: float | None
    validation_loss: float | None


class Interval(BaseModel):
    """A rate with its 95% interval, and what it is a share or mean of."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Play(BaseModel):
    """One model's episodes of one benchmark."""

    model: str
    benchmark: str
    success: Interval
    progress: Interval
    format_errors: Interval
    stuck: Interval
    seconds: float


class Part(BaseModel):
    """One part of the measurement.

    Attributes:
        state: how it ended.
        seconds: that it took.
        limit: seconds that it might take.
        note: of a failure, its error; of a part that was left out, why.
        facts: what is no table: of the machine, of the model and the data.
        checks, speeds, tuned, plays: the tables; each part fills its own.
    """

    state: State
    seconds: float = 0.0
    limit: float = 0.0
    note: str = ""
    facts: dict[str, Any] = {}
    checks: list[Check] = []
    speeds: list[Speed] = []
    tuned: list[Tuned] = []
    plays: list[Play] = []


class Results(BaseModel):
    """All parts by name."""

    size: str
    parts: dict[str, Part] = {}

    def write(self, folder: Path) -> None:
        """Write `results.json` and `results.md`; each replaces the one before as a whole."""
        write_json(folder / "results.json", self.model_dump())
        with atomic_write(folder / "results.md") as handle:
            handle.write(markdown(self))


def markdown(results: Results) -> str:
    """The same for people."""
    lines = [f"# GPU measurement ({results.size})", ""]
    lines += table(
        ["part", "state", "seconds", "limit"],
        [[name, p.state, f"{p.seconds:.0f}", f"{p.limit:.0f}"] for name, p in results.parts.items()],
    )
    for name, part in results.parts.items():
        lines += [f"## {name}", ""]
        if part.note:
            lines += ["```", part.note.strip(), "```", ""]
        lines += [*(f"- {key}: {value}" for key, value in part.facts.items()), ""]
        lines += table(
            ["check", "losses", "largest difference", "tolerance", "equal", "note"],
            [
                [c.name, ", ".join(f"{loss:.4f}" for loss in c.losses), number(c.difference, ".1e"), f"{c.tolerance:g}",
                 {True: "yes", False: "NO", None: "-"}[c.equal], c.note]
                for c in part.checks
            ],
        )  # fmt: skip
        lines += table(
            ["way", "tokens/s", "trained tokens/s", "padding", "MFU", "MFU, least", "memory, GiB", "recomputes",
             "by TRL", "by Trainer"],
            [
                [s.way, "out of memory" if s.out_of_memory else number(s.tokens_per_second, ",.0f"),
                 number(s.trained_tokens_per_second, ",.0f"), number(s.padding, ".0%"), number(s.mfu, ".1%"),
                 number(s.mfu_least, ".1%"), number(s.gpu_bytes and s.gpu_bytes / 2**30, ".1f"),
                 {True: "yes", False: "no", None: "-"}[s.activation_checkpointing], number(s.by_trl, ".2f"),
                 number(s.by_trainer, ".2f")]
                for s in part.speeds
            ],
        )  # fmt: skip
        lines += table(
            ["variant", "tokens", "trained", "steps", "seconds", "tokens/s", "MFU", "validation loss before", "after"],
            [
                [t.variant, f"{t.tokens:,}", f"{t.trained_tokens:,}", str(t.steps), f"{t.seconds:.1f}",
                 f"{t.tokens_per_second:,.0f}", number(t.mfu, ".1%"), number(t.validation_loss_before, ".3f"),
                 number(t.validation_loss, ".3f")]
                for t in part.tuned
            ],
        )  # fmt: skip
        lines += table(
            ["benchmark", "model", "success", "progress", "format errors", "stuck", "episodes", "seconds"],
            [
                [p.benchmark, p.model, rate(p.success), rate(p.progress), rate(p.format_errors), rate(p.stuck),
                 str(p.success.n), f"{p.seconds:.0f}"]
                for p in sorted(part.plays, key=lambda played: played.benchmark)
            ],
        )  # fmt: skip
    return "\n".join(lines) + "\n"


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table and an empty one; nothing without rows."""
    if not rows:
        return []
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)] + [""]


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def rate(interval: Interval) -> str:
    """In percent, with the interval in brackets."""
    if interval.value is None or interval.low is None or interval.high is None:
        return "-"
    return f"{interval.value:.0%} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"

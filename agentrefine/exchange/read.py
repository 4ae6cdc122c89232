"""Reads another data set: agentrefine import agentinstruct downloads/*.parquet data/agentinstruct

The folder can then be named under tuning.variants of params.yaml. docs/data-formats.md says where each data set is.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel

from agentrefine.errors import UserError
from agentrefine.exchange.chats import SHAREGPT, ChatCounts, Layout, read_chats
from agentrefine.files import new_folder, short_hash, write_json
from agentrefine.quality.data_set import SPLITS

SOURCES: dict[str, tuple[Layout, ...]] = {
    "published": SHAREGPT[:1],
    "agenttraj": (Layout("item_id", "conversations", "from", "value"),),
    "agent-flan": (Layout("id", "conversation", "role", "content"),),
    "agentinstruct": SHAREGPT[:1],
    "sharegpt": SHAREGPT,
    "openai": SHAREGPT[1:2],
    "axolotl": SHAREGPT,
    "llamafactory": tuple(layout._replace(only_last_trained=True) for layout in SHAREGPT),
    "llamafactory-v1": SHAREGPT[1:2],
    "trl": (*SHAREGPT[1:2], Layout("id", "completion", "role", "content", prompt="prompt")),
}
"""The forms that the records of each format may have."""

REPORT = "import.json"


class ImportReport(BaseModel):
    """What became of the chats of a data set (its import.json).

    Example: `{"files": ["a.jsonl"], "read": 3, "joined": 0, "dropped": {"nothing is trained": 1}, ...,
    "samples": {"train": 2, "validation": 0}, "trained_turns": 9, "untrained_turns": 4}`

    Attributes:
        files: that were read.
        read: records in them.
        joined: records that became one sample with the one before (LLaMA-Factory's, one for each trained turn).
        dropped: records that were left out, by rule.
        left_out: parts of the other records that were left out, by key and reason.
        samples: that were kept, by split.
        trained_turns, untrained_turns: gpt messages of the kept samples, by their flag.
    """

    files: list[str]
    read: int
    joined: int
    dropped: dict[str, int]
    left_out: dict[str, int]
    samples: dict[str, int]
    trained_turns: int
    untrained_turns: int

    @property
    def kept(self) -> int:
        """Samples of all splits."""
        return sum(self.samples.values())

    def sentence(self) -> str:
        """The report for a reader."""
        joined = f"\njoined: {self.joined:,} (the next trained turn of the same game)" if self.joined else ""
        dropped = "".join(f"\ndropped: {count:,} ({rule})" for rule, count in self.dropped.items())
        left_out = "".join(f"\nleft out: {count:,} ({part})" for part, count in self.left_out.items())
        return (
            f"read {self.read:,} chats, kept {self.kept:,} ({self.samples['train']:,} for training, "
            f"{self.samples['validation']:,} for validation) with {self.trained_turns:,} trained and "
            f"{self.untrained_turns:,} untrained turns{joined}{dropped}{left_out}"
        )


def import_chats(
    layouts: Sequence[Layout],
    files: Sequence[Path],
    out: Path,
    validation_share: float,
    seed: int,
    ignored: Collection[str] = (),
) -> ImportReport:
    """Write the chats of `files` as `train.jsonl`, `validation.jsonl` and a report to the new folder `out`, streamed.

    A hash of seed and id decides whether a sample is held out for validation, so that samples of one id (several
    attempts at one task) stay together and the order of the files does not matter. `layouts` are the forms that the
    records may have, `ignored` keys of records and messages that are left out.

    Raises:
        UserError: a missing or broken file, nothing to train on, or a folder that cannot be written.
    """
    if not 0 <= validation_share < 1:
        message = f"--validation-share is {validation_share}; set it to a share from 0 to below 1."
        raise UserError("bad_value", message, key="--validation-share", value=validation_share)
    counts = ChatCounts()
    samples: Counter[str] = Counter(dict.fromkeys(SPLITS, 0))
    turns: Counter[bool] = Counter()
    seen: set[str] = set()
    with new_folder(out) as folder:
        with ExitStack() as stack:
            handles = {s: stack.enter_context((folder / f"{s}.jsonl").open("w", encoding="utf-8")) for s in SPLITS}
            for sample in (s for file in files for s in read_chats(file, layouts, counts, ignored)):
                line = sample.model_dump_json(by_alias=True)
                digest = short_hash(line)
                if digest in seen:
                    counts.dropped["the same chat again"] += 1
                    continue
                seen.add(digest)
                digits = short_hash("validation", str(seed), sample.id)
                held_out = int(digits, 16) < validation_share * 16 ** len(digits)
                split = "validation" if held_out else "train"
                handles[split].write(line + "\n")
                samples[split] += 1
                turns.update(bool(m.loss) for m in sample.conversations if m.from_ == "gpt")
        report = ImportReport(
            files=[str(file) for file in files],
            read=counts.read,
            joined=counts.joined,
            dropped=dict(sorted(counts.dropped.items())),
            left_out=dict(sorted(counts.left_out.items())),
            samples=dict(samples),
            trained_turns=turns[True],
            untrained_turns=turns[False],
        )
        if not samples["train"]:
            message = f"{files[0]}: no chat is left for training ({report.sentence().splitlines()[0]})."
            raise UserError("nothing_to_train", message, file=files[0], read=report.read, kept=report.kept)
        write_json(folder / REPORT, report.model_dump())
    return report

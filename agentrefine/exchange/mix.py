"""Games and general chat in one data set, so that a model tuned on games does not forget how to talk."""

import random
import shutil
from collections.abc import Collection, Iterator
from itertools import compress
from pathlib import Path

from agentrefine.errors import UserError
from agentrefine.exchange.chats import ChatCounts, read_chats
from agentrefine.files import atomic_folder, read_jsonl, write_json, write_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.game.counts import MixCounts

TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"


def mix(data_set: Path, chat: Path, share: float, seed: int, out: Path, ignored: Collection[str] = ()) -> MixCounts:
    """Write a data set of all games and so many chats that they are `share` of the training samples.

    The chats are a uniform draw from the file, and they stand among the games at random places; games and chats each
    keep their own order. The validation samples are the games' own, byte for byte, so that losses with and without chat
    compare. Both files are streamed, the chat file twice: memory holds one byte for each chat. Equal seeds give equal
    bytes.

    Args:
        data_set: a folder with train.jsonl and validation.jsonl.
        chat: a file in ShareGPT's format (`chats.SHAREGPT`); its keys in `ignored` are left out.
        share: of the chats among the training samples, in (0, 1).
        out: the folder for train.jsonl, validation.jsonl and metrics.json; replaced as a whole.

    Raises:
        UserError: a file is missing or broken, there are no games, or too few chats; nothing is written.
    """
    train = data_set / TRAIN
    games, validation = _lines(train), _lines(data_set / VALIDATION)
    if not games:
        message = f"{train}: holds no game to mix with; run the stage that writes it again."
        raise UserError("no_samples", message, file=train)
    chat_counts = ChatCounts()
    available = sum(1 for _ in read_chats(chat, counts=chat_counts, ignored=ignored))
    wanted = max(1, round(games * share / (1 - share)))
    if available < wanted:
        possible = int(1000 * available / (available + games)) / 1000
        lower = f", or lower share to at most {possible:g}" if possible else ""
        message = (
            f"{chat}: holds {available} chats that can be trained on, and a share of {share:g} beside {games} games "
            f"needs {wanted}; name {'a larger file' if available else 'a file that holds some'} in the section mix of "
            f"params.yaml{lower}."
        )
        values = {"found": available, "expected": wanted, "largest_share": possible}
        raise UserError("too_few_samples", message, file=chat, **values)
    draw = random.Random(seed)
    drawn = bytearray(available)
    for index in draw.sample(range(available), wanted):
        drawn[index] = 1
    chats = compress(read_chats(chat, ignored=ignored), drawn)
    with atomic_folder(out) as folder:
        write_jsonl(folder / TRAIN, _interleaved(read_jsonl(train, Sample), games, chats, wanted, draw))
        shutil.copyfile(data_set / VALIDATION, folder / VALIDATION)
        counts = MixCounts(
            games=games,
            chats=wanted,
            chats_available=available,
            chats_left_out=dict(sorted(chat_counts.dropped.items())),
            parts_left_out=dict(sorted(chat_counts.left_out.items())),
            chat_share=wanted / (games + wanted),
            validation=validation,
        )
        write_json(folder / "metrics.json", counts.model_dump())
    return counts


def _interleaved(
    games: Iterator[Sample], games_left: int, chats: Iterator[Sample], chats_left: int, draw: random.Random
) -> Iterator[Sample]:
    """All of both, each in its own order; every interleaving is equally likely."""
    while games_left + chats_left:
        if draw.randrange(games_left + chats_left) < chats_left:
            chats_left -= 1
            yield next(chats)
        else:
            games_left -= 1
            yield next(games)


def _lines(file: Path) -> int:
    try:
        with file.open("rb") as handle:
            return sum(1 for line in handle if not line.isspace())
    except OSError as error:
        raise UserError(
            "stage_not_run" if isinstance(error, FileNotFoundError) else "file_unreadable",
            f"{file}: cannot be read ({error.strerror}); run the stage that writes it (quality_gate writes "
            "data/dataset if it passes), or correct data_set in the section mix of params.yaml.",
            file=file,
        ) from error

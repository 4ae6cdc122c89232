"""The tiny base model: a small Llama pretrained on plain text of the training worlds, for the embedded default.

It reads their descriptions, rules and transcripts; no chat, no thoughts, no format, nothing of the held-out families.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
import yaml
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agentrefine.files import atomic_folder, packaged_text, short_hash, write_json
from agentrefine.game.conversation import instructions, opening, reply_text
from agentrefine.params.tuning import TinyModel
from agentrefine.simulation.tokenizer import MIN_FREQUENCY, build_tokenizer, check_words, stretches
from agentrefine.tuning.cards import CARD, TinyCard
from agentrefine.tuning.chat_template import MASKED
from agentrefine.tuning.optimizer import labelled_loss, make_optimizer
from agentrefine.worlds import thoughts
from agentrefine.worlds.catalogue import all_templates, all_texts, families, themes, vocabulary, words_in
from agentrefine.worlds.engine import Game
from agentrefine.worlds.family import Theme
from agentrefine.worlds.language import sentence
from agentrefine.worlds.layout import EVALUATION_SEEDS, draw_world
from agentrefine.worlds.player import Explorer

Progress = Callable[[int, int], None]
"""Called with the tokens done and all tokens, after each step."""
Batch = tuple[torch.Tensor, torch.Tensor, int]
"""Token ids and labels, (rows, longest row), and the number of tokens; labels are -100 where nothing is learned."""

TEXTS_FOR_TOKENIZER = 400
TEXTS_PER_POOL = 64
"""Texts among which rows of similar length are put together."""
WARMUP_STEPS = 30
DECAY_SHARE = 0.4
"""The share of the training over which the learning rate falls to zero."""
EMBEDDING_STD = 0.1
"""The standard deviation of the first embeddings. With transformers' 0.02 the first steps make the names of one kind
nearly the same, and the model cannot distinguish them when it looks something up."""
INVENTORIES = 8
"""Inventories for each transcript; they are about a fifth as long."""
WANDERING_SHARE = 0.3
"""How often a transcript's player does something that is possible or was possible, instead of what the expert does."""
RULES_SHARE = 0.5
"""The share of the transcripts that begin with the rules."""
QUESTIONS = 3
"""Questions after each observation of a transcript."""
MAX_ACTIONS = 25
"""Actions of a transcript."""


class PlainText(NamedTuple):
    """A text to pretrain on.

    Attributes:
        text: in the language of the worlds.
        answers_only: train only on what stands between a question mark and the full stop: all else is drawn at random
            and would drown what can be learned.
    """

    text: str
    answers_only: bool


def make_tiny_base(params: TinyModel, seed: int, out: Path, progress: Progress | None = None) -> TinyCard:
    """Pretrain a small Llama on `plain_texts`, so that it speaks the worlds' language but is no agent.

    Weights (safetensors), tokenizer and the card that is returned are written to the folder `out`. Equal seeds and
    thread counts give equal bytes.

    Raises:
        UserError: a word of the worlds is not one token; a full disk.
    """
    tokenizer = tiny_tokenizer(seed)
    tokenizer.model_max_length = params.max_length
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        num_key_value_heads=params.heads,
        max_position_embeddings=params.max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    losses, seen = _pretrain(model, _batches(tokenizer, params, seed), params, progress)
    _renew_unseen(model, seen, seed)
    tail = losses[-max(1, len(losses) // 10) :]
    card = TinyCard(
        seed=seed,
        vocabulary=len(tokenizer),
        params=params.model_dump(),
        parameters=model.num_parameters(),
        tokens=params.pretraining_tokens,
        loss=sum(tail) / len(tail),
    )
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / CARD, card.model_dump())
    return card


def tiny_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tiny base's tokenizer: every name and word of every world, held out or not, and of the agent's texts is one
    token, and so is every stretch of text between two names.
    """
    templates = [*all_texts(), *thoughts.phrasings(), *phrasing().values()]
    words = vocabulary() | {word for text in templates for word in words_in(text)} | stretches(templates)
    commands = dict.fromkeys(all_templates(), "")
    chat = [m.content for m in opening(instructions(commands), "", "")] + [reply_text("", "")]
    texts = [plain.text for plain in islice(plain_texts(seed), TEXTS_FOR_TOKENIZER)]
    tokenizer = build_tokenizer(words, texts + chat * MIN_FREQUENCY)
    check_words(tokenizer, words)
    return tokenizer


def _batches(tokenizer: PreTrainedTokenizerFast, params: TinyModel, seed: int) -> Iterator[Batch]:
    """Batches without end: each text is a row of its own, rows of similar length together."""
    rng = Random(int(short_hash("batches", str(seed)), 16))
    texts = plain_texts(seed)
    while True:
        rows = [_row(tokenizer, text, params) for text in islice(texts, TEXTS_PER_POOL)]
        batches: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[]]
        for ids, labels in sorted(rows, key=lambda row: len(row[0])):
            if batches[-1] and (len(batches[-1]) + 1) * len(ids) > params.batch_tokens:
                batches.append([])
            batches[-1].append((ids, labels))
        rng.shuffle(batches)
        for batch in batches:
            all_ids = [ids for ids, _ in batch]
            padded = pad_sequence(all_ids, batch_first=True, padding_value=tokenizer.pad_token_id)
            labels = pad_sequence([labels for _, labels in batch], batch_first=True, padding_value=MASKED)
            yield padded, labels, sum(map(len, all_ids))


def _row(tokenizer: PreTrainedTokenizerFast, plain: PlainText, params: TinyModel) -> tuple[torch.Tensor, torch.Tensor]:
    """A text's token ids, and its labels with -100 where nothing is learned."""
    ids = [*tokenizer(plain.text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id][: params.max_length]
    return torch.tensor(ids), torch.tensor(_answers(tokenizer, ids) if plain.answers_only else ids)


def _answers(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[int]:
    """The tokens from each question mark, itself left out, to the next full stop; all others masked."""
    question, stop = (tokenizer.convert_tokens_to_ids(mark) for mark in "?.")
    labels, answering = [], False
    for token in ids:
        labels.append(token if answering else MASKED)
        answering = token == question or (answering and token != stop)
    return labels


def _pretrain(
    model: LlamaForCausalLM, batches: Iterator[Batch], params: TinyModel, progress: Progress | None
) -> tuple[list[float], torch.Tensor]:
    """Train in place. Returns the loss of each step in nats per token, and which tokens the text held."""
    optimizer = make_optimizer(model, learning_rate=params.learning_rate, muon_learning_rate=params.muon_learning_rate)
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses: list[float] = []
    seen = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    done = 0
    model.train()
    while done < params.pretraining_tokens:
        ids, labels, tokens = next(batches)
        # Linear warm-up, a constant stretch, linear decay to zero.
        left = 1 - done / params.pretraining_tokens
        factor = min(1.0, (len(losses) + 1) / (WARMUP_STEPS + 1), left / DECAY_SHARE)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        loss = labelled_loss(model, ids, labels, reduction="mean")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seen[ids.flatten()] = True
        done += tokens
        if progress is not None:
            progress(min(done, params.pretraining_tokens), params.pretraining_tokens)
    return losses, seen


def _renew_unseen(model: LlamaForCausalLM, seen: torch.Tensor, seed: int) -> None:
    """Draw new embeddings, around the mean of the others, for the tokens that the text never held.

    Pretraining only pushes them away from everything; the chat's tokens would take long to come back from there.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        noise = torch.randn(int((~seen).sum()), weight.shape[1])
        weight[~seen] = weight[seen].mean(dim=0) + weight[seen].std(dim=0) * noise


def plain_texts(seed: int) -> Iterator[PlainText]:
    """Texts without end: inventories, and transcripts whose player wanders, so that some of its actions fail."""
    rng = Random(int(short_hash("plain texts", str(seed)), 16))
    kinds = [family.name for family in families("train")]
    for number in count():
        for _ in range(INVENTORIES):
            yield PlainText(_inventory(rng.choice(themes("train")), rng), answers_only=True)
        world_seed = int(short_hash("plain text", str(seed), str(number)), 16) % EVALUATION_SEEDS
        theme = rng.choice(themes("train")).name
        game = Game(draw_world(rng.choice(kinds), theme, world_seed))
        yield PlainText(_transcript(game, rng), answers_only=False)


def _inventory(theme: Theme, rng: Random) -> str:
    """Where some things are, then questions about these and a few others, twice."""
    spots = [*theme.nouns["place"], *theme.nouns["container"]]
    names = [name for kind, nouns in theme.nouns.items() if kind not in ("place", "container") for name in nouns]
    asked = rng.sample(names, rng.randint(4, 9))
    facts = {name: phrasing()["located"].format(name=name, spot=rng.choice(spots)) for name in asked[:-2]}
    sentences = list(facts.values())
    for _ in range(2):
        rng.shuffle(asked)
        sentences += [_answered(name, facts.get(name)) for name in asked]
    return f"{' '.join(sentences)}\n"


def _transcript(game: Game, rng: Random) -> str:
    actions = game.world.rules.actions.items()
    rules = [phrasing()["rule"].format(template=template, does=action.does) for template, action in actions]
    lines = [*(rules if rng.random() < RULES_SHARE else []), game.world.goal, game.first_observation()]
    expert = Explorer(game)
    possible_before = game.applicable()
    for _ in range(MAX_ACTIONS):
        if game.completed:
            break
        lines.append(" ".join(_question(game, rng) for _ in range(QUESTIONS)))
        possible = game.applicable()
        wandering = rng.random() < WANDERING_SHARE
        try:
            action = rng.choice(possible + possible_before) if wandering else expert.next_action()
        except RuntimeError:
            break  # wandering has spent what the goal needs, such as the only coin: the text ends here
        possible_before = possible
        lines += [phrasing()["command"].format(action=action), game.step(action).observation]
    return "".join(f"{line}\n" for line in lines)


def _question(game: Game, rng: Random) -> str:
    """A question about the game as it is known so far, with its answer."""
    kind = rng.random()
    if kind < 0.2:
        open_conditions = [c.text for c in game.world.conditions if c.fact not in game.state]
        return phrasing()["left"].format(condition=sentence(open_conditions[0]))
    unseen_places = [fact[1] for fact in game.unexplored() if fact[1] in game.world.members["place"]]
    if kind < 0.4 and unseen_places:
        return phrasing()["next"].format(place=unseen_places[0])
    predicates = game.world.rules.predicates
    known = [fact for fact in sorted(game.known) if predicates[fact[0]].tell and len(fact) > 1]
    wanted = [name for condition in game.world.conditions for name in condition.fact[1:]]
    name = rng.choice([*wanted, *(fact[1] for fact in known)])
    about = [fact for fact in known if fact[1] == name]
    return _answered(name, sentence(predicates[about[0][0]].text(about[0])) if about else None)


def _answered(name: str, fact: str | None) -> str:
    return phrasing()["unseen" if fact is None else "where"].format(name=name, fact=fact)


@cache
def phrasing() -> dict[str, str]:
    """The templates of `corpus.yaml`."""
    return dict(yaml.safe_load(packaged_text("agentrefine.simulation", "corpus.yaml")))

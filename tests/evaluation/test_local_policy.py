"""The local policy: what it keeps between turns must never change what it says."""

import random
from collections import Counter
from contextlib import closing
from copy import deepcopy

import pytest
import torch
from transformers import MistralConfig

from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.errors import UserError
from agentrefine.evaluation.local import MIN_SHARED_PREFIX, LocalPolicy, sample_tokens
from agentrefine.evaluation.policy import Dialogue
from agentrefine.evaluation.rollout import play
from agentrefine.evaluation.row_cache import Feed, RowCache, with_row_attention
from agentrefine.files import write_jsonl
from agentrefine.game.conversation import Message, opening
from agentrefine.params.evaluation import Sampling
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.chat_template import end_of_turn_id, prompt_ids
from tests.helpers.errors import refused
from tests.helpers.playing import PushBenchmark
from tests.helpers.tiny_model import tiny_model

WORDS = ["go", "to", "the", "kitchen", "take", "apple", "you", "see", "a", "door", "goal", "nothing", "here", "act"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(WORDS, [" ".join(WORDS), "Thought: go\nAction: take the apple"] * 5)


@pytest.fixture(scope="module")
def model(tokenizer):
    return llama(tokenizer)


def llama(tokenizer, positions=512):
    return tiny_model(tokenizer, 3, max_position_embeddings=positions)


def dialogues(count, seed=0):
    drawn = random.Random(seed)
    return {
        f"e{i}": opening("act", "take the apple", " ".join(drawn.choices(WORDS, k=drawn.randint(2, 60))))
        for i in range(count)
    }


def uncached_reply(model, tokenizer, messages, max_new_tokens):
    """Plain greedy generation that encodes everything again for each token."""
    ids = prompt_ids(tokenizer, messages)
    written = []
    with torch.inference_mode():
        while len(written) < max_new_tokens:
            token = int(model(torch.tensor([ids + written]), use_cache=False).logits[0, -1].argmax())
            if token == end_of_turn_id(tokenizer):
                break
            written.append(token)
    return tokenizer.decode(written, skip_special_tokens=True)


def play_rounds(policy, model, tokenizer, histories, rounds, max_new_tokens, seed=1):
    """Several turns of all dialogues; each reply is checked against uncached generation."""
    drawn = random.Random(seed)
    for _ in range(rounds):
        replies = policy.act([Dialogue(key, messages) for key, messages in histories.items()])
        for (key, messages), reply in zip(histories.items(), replies, strict=True):
            assert reply.text == uncached_reply(model, tokenizer, messages, max_new_tokens)
            histories[key] = [
                *messages,
                Message(role="assistant", content=reply.text),
                Message(role="user", content=" ".join(drawn.choices(WORDS, k=drawn.randint(1, 20)))),
            ]


def test_replies_equal_uncached_generation_over_turns_and_when_episodes_come_and_go(model, tokenizer):
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=8)
    histories = dialogues(5)
    play_rounds(policy, model, tokenizer, histories, rounds=3, max_new_tokens=8)
    policy.forget(["e1", "e3"])
    del histories["e1"], histories["e3"]
    play_rounds(policy, model, tokenizer, histories, rounds=2, max_new_tokens=8)
    histories |= {f"new{key}": messages for key, messages in dialogues(3, seed=9).items()}
    play_rounds(policy, model, tokenizer, histories, rounds=2, max_new_tokens=8)
    only_two = {key: histories[key] for key in list(histories)[1:3]}
    play_rounds(policy, model, tokenizer, only_two, rounds=2, max_new_tokens=8)


@pytest.fixture
def read_tokens(monkeypatch):
    """How many tokens each forward pass reads."""
    counts = []
    forward = RowCache.forward

    def counting(cache, feeds):
        counts.append(sum(len(feed.ids) for feed in feeds))
        return forward(cache, feeds)

    monkeypatch.setattr(RowCache, "forward", counting)
    return counts


def test_only_new_tokens_are_encoded_at_each_turn(model, tokenizer, read_tokens):
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=4)
    history = dialogues(1)["e0"]
    first = policy.act([Dialogue("e0", history)])[0]
    read_tokens.clear()
    history = [*history, Message(role="assistant", content=first.text), Message(role="user", content="you see a door")]
    reply = policy.act([Dialogue("e0", history)])[0]
    new = reply.prompt_tokens - first.prompt_tokens
    assert sum(read_tokens) <= new + 4
    assert sum(read_tokens) < reply.prompt_tokens


@pytest.mark.parametrize("length", [100, MIN_SHARED_PREFIX])
def test_instructions_that_dialogues_share_are_encoded_once_per_generator(model, tokenizer, read_tokens, length):
    asked = [Dialogue(f"e{i}", opening("act " * length, "take the apple", word)) for i, word in enumerate(WORDS)]
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=4)
    for dialogue, reply in zip(asked, policy.act(asked), strict=True):
        assert reply.text == uncached_reply(model, tokenizer, dialogue.messages, 4)
    assert sum(read_tokens) < len(policy.generators) * (length + 10) + len(asked) * 30
    read_tokens.clear()
    policy.forget([dialogue.key for dialogue in asked])
    policy.act([Dialogue("later", asked[0].messages)])
    assert sum(read_tokens) < 30


@pytest.mark.parametrize("shared", [1, MIN_SHARED_PREFIX])
def test_dialogues_with_other_instructions_than_before_are_answered_as_if_alone(model, tokenizer, monkeypatch, shared):
    monkeypatch.setattr("agentrefine.evaluation.local.MIN_SHARED_PREFIX", shared)
    monkeypatch.setattr("agentrefine.evaluation.local.MAX_PREFIXES", 4)
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=5)
    drawn = random.Random(2)
    for round_number in range(3):
        asked = []
        for number in range(12):
            instructions = " ".join(drawn.choices(WORDS, k=60))
            asked.append(Dialogue(f"{number}.{round_number % 2}", opening(instructions, "take the apple", "a door")))
        for dialogue, reply in zip(asked, policy.act(asked), strict=True):
            assert reply.text == uncached_reply(model, tokenizer, dialogue.messages, 5)
        policy.forget([dialogue.key for dialogue in asked[::2]])


def test_a_dialogue_that_joins_while_others_are_written_gets_the_same_reply(model, tokenizer):
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=10)
    generator = policy.generators[0]
    asked = [Dialogue(key, messages) for key, messages in dialogues(6).items()]
    found = {}
    for dialogue in asked:
        generator.add(dialogue)
        for _ in range(3):
            found.update(generator.step())
    while len(found) < len(asked):
        found.update(generator.step())
    for dialogue in asked:
        assert found[dialogue.key].text == uncached_reply(model, tokenizer, dialogue.messages, 10)


def test_a_long_prompt_is_read_in_parts_beside_replies_that_are_written(model, tokenizer, monkeypatch):
    monkeypatch.setattr("agentrefine.evaluation.local.READ_LIMIT", 16)
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=8)
    play_rounds(policy, model, tokenizer, dialogues(4, seed=3), rounds=2, max_new_tokens=8)


def test_a_dialogue_that_does_not_continue_the_one_before_is_read_again(model, tokenizer):
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=6)
    history = opening("act", "take the apple", "you see a door")
    policy.act([Dialogue("e", history)])
    rewritten = [*history, Message(role="assistant", content="something else"), Message(role="user", content="here")]
    for messages in (rewritten, history, opening("go", "to the kitchen", "nothing")):
        assert policy.act([Dialogue("e", messages)])[0].text == uncached_reply(model, tokenizer, messages, 6)


@pytest.mark.parametrize("batched", [False, True], ids=["row by row", "batched"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_of_ragged_rows_with_and_without_prefixes_equal_those_of_whole_sequences(tokenizer, batched, kv_heads):
    model = tiny_model(tokenizer, 3, max_position_embeddings=512, num_attention_heads=4, num_key_value_heads=kv_heads)
    drawn = random.Random(5)

    def tokens(count):
        return [drawn.randrange(len(tokenizer)) for _ in range(count)]

    cache = RowCache(with_row_attention(model), batched)
    shared = [tokens(40), tokens(130)]
    with torch.inference_mode():
        prefixes = [cache.add_row() for _ in shared]
        cache.forward([Feed(row, ids, predict=False) for row, ids in zip(prefixes, shared, strict=True)])
        beginnings = [shared[1], [], shared[0], shared[1], [], shared[0]]
        rows = [cache.add_row({40: prefixes[0], 130: prefixes[1]}.get(len(ids))) for ids in beginnings]
        read = [list(ids) for ids in beginnings]
        for counts in ([7, 40, 150, 23, 1, 64], [1, 1, 1, 1, 1, 1], [1, 0, 3, 1, 0, 1], [0, 60, 1, 1, 70, 0]):
            fed = []
            for number, count in enumerate(counts):
                if count:
                    fed.append((number, Feed(rows[number], tokens(count), predict=number != 3)))
                    read[number] += fed[-1][1].ids
            drawn.shuffle(fed)
            logits = cache.forward([feed for _, feed in fed])
            predicted = [number for number, feed in fed if feed.predict]
            assert len(logits) == len(predicted)
            for row, number in zip(logits, predicted, strict=True):
                whole = model(torch.tensor([read[number]]), use_cache=False).logits[0, -1]
                torch.testing.assert_close(row, whole, atol=1e-4, rtol=0)
        cache.remove_row(rows[1])
        again, copied, fresh = cache.add_row(prefixes[0]), cache.copy_row(prefixes[0]), tokens(5)
        whole = model(torch.tensor([shared[0] + fresh]), use_cache=False).logits[0, -1]
        for row in cache.forward([Feed(again, fresh), Feed(copied, fresh)]):
            torch.testing.assert_close(row, whole, atol=1e-4, rtol=0)


def test_playing_leaves_the_model_as_it_is_and_shares_its_weights(model, tokenizer):
    before = model.config._attn_implementation
    copied = with_row_attention(model)
    assert model.config._attn_implementation == before
    assert {p.data_ptr() for p in copied.parameters()} == {p.data_ptr() for p in model.parameters()}


def test_a_model_whose_attention_is_its_own_is_refused(model, tokenizer, monkeypatch):
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    with refused("model_unusable", name="LlamaForCausalLM"):
        LocalPolicy(model, tokenizer, name="m", max_new_tokens=4)


def test_a_reply_stops_at_the_end_of_turn_and_at_the_limit(model, tokenizer):
    history = dialogues(1)["e0"]
    unlimited = uncached_reply(model, tokenizer, history, 12)
    reply = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=12).act([Dialogue("e", history)])[0]
    assert reply.text == unlimited
    short = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=2).act([Dialogue("e", history)])[0]
    assert short.completion_tokens <= 2
    always_stops = llama(tokenizer)
    with torch.no_grad():
        always_stops.lm_head.weight.zero_()
    always_stops.generation_config.eos_token_id = [0]
    silent = LocalPolicy(always_stops, tokenizer, name="tiny", max_new_tokens=12).act([Dialogue("e", history)])[0]
    assert (silent.text, silent.completion_tokens) == ("", 0)


def test_a_full_context_drops_the_oldest_turns_whole_and_says_so(tokenizer):
    model = llama(tokenizer, positions=150)
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=8)
    history = opening("act", "take the apple", "you see a door")
    cut = []
    for _ in range(12):
        reply = policy.act([Dialogue("e", history)])[0]
        kept = history[:3] + history[3 + 2 * reply.turns_cut :]
        assert reply.text == uncached_reply(model, tokenizer, kept, 8)
        assert reply.prompt_tokens == len(prompt_ids(tokenizer, kept)) <= 150 - 8
        cut.append(reply.turns_cut)
        turn = [Message(role="assistant", content="go to the kitchen"), Message(role="user", content="you see " * 5)]
        history = [*history, *turn]
    assert cut[0] == 0
    assert cut == sorted(cut)
    assert cut[-1] > 0


def test_an_opening_that_does_not_fit_ends_the_episode_and_no_other(tokenizer):
    model = llama(tokenizer, positions=100)
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=8)
    long, short = opening("act", "take", "see " * 200), opening("act", "take", "see")
    replies = policy.act([Dialogue("long", long), Dialogue("short", short)])
    assert [reply.context_full for reply in replies] == [True, False]
    assert replies[1].text == uncached_reply(model, tokenizer, short, 8)


def test_a_model_with_windowed_attention_is_kept_within_its_window(tokenizer):
    model = tiny_model(tokenizer, 4, kind=MistralConfig, sliding_window=120, max_position_embeddings=512)
    policy = LocalPolicy(model, tokenizer, name="mistral", max_new_tokens=6)
    histories = dialogues(3)
    play_rounds(policy, model, tokenizer, histories, rounds=2, max_new_tokens=6)
    assert policy.act([Dialogue("long", opening("act", "take", "see " * 130))])[0].context_full


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_two_plays_of_a_benchmark_are_equal(tokenizer, tmp_path, batch_size):
    chosen = benchmark("worlds_layouts")
    episodes = chosen.episodes(5, 7)
    for name in ("first", "second"):
        policy = LocalPolicy(llama(tokenizer, positions=2048), tokenizer, name="tiny", max_new_tokens=6)
        played = play(policy, chosen, episodes, max_steps=4, batch_size=batch_size, model_digest="d")
        ordered = sorted(played, key=lambda episode: episode.id)
        assert [episode.id for episode in ordered] == sorted(spec.id for spec in episodes)
        assert write_jsonl(tmp_path / name, ordered) == 5
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_an_error_in_one_thread_of_several_ends_the_play_and_closes_all_episodes(model, tokenizer):
    class Failing(PushBenchmark):
        def make(self, episode):
            if episode.id == "push.3":
                raise UserError("file_missing", "no such game")
            return super().make(episode)

    failing = Failing()
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=6)
    with refused("file_missing") as caught:
        list(play(policy, failing, failing.episodes(6, 0), max_steps=3, batch_size=4))
    assert str(caught.value) == "no such game"
    assert all(game.closed for game in failing.made)
    assert not any(generator._writing for generator in policy.generators)


def test_a_play_that_is_given_up_closes_its_episodes(model, tokenizer):
    chosen = PushBenchmark()
    policy = LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=6)
    playing = play(policy, chosen, chosen.episodes(8, 0), max_steps=3, batch_size=4)
    next(playing)
    playing.close()
    assert all(game.closed for game in chosen.made)


def test_tokens_are_drawn_by_their_shares_and_the_unlikely_are_left_out():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    drawn = Counter(
        sample_tokens(logits.repeat(4000, 1), Sampling(temperature=1.0), [random.Random(n) for n in range(4000)])
    )
    assert [drawn[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    cut = Sampling(temperature=1.0, top_p=0.75)
    drawn = Counter(sample_tokens(logits.repeat(4000, 1), cut, [random.Random(n) for n in range(4000)]))
    assert set(drawn) == {0, 1}
    assert drawn[0] / 4000 == pytest.approx(0.625, abs=0.03)
    cold = Counter(
        sample_tokens(logits.repeat(500, 1), Sampling(temperature=0.05), [random.Random(n) for n in range(500)])
    )
    assert set(cold) == {0}
    assert sample_tokens(logits, Sampling(), [random.Random(0)]) == [0]


def test_a_sampled_reply_depends_on_seed_dialogue_and_turn_but_not_on_the_batch(tokenizer, model):
    asked = [Dialogue(key, messages) for key, messages in dialogues(5).items()]
    same = [Dialogue(f"{asked[0].key}#{number}", asked[0].messages) for number in range(1, 4)]

    def replies(batch, seed=0):
        policy = LocalPolicy(
            model, tokenizer, name="m", max_new_tokens=12, sampling=Sampling(temperature=1.0), seed=seed
        )
        return {d.key: reply.text for d, reply in zip(batch, policy.act(batch), strict=True)}

    together = replies(asked)
    assert together == {key: text for d in asked for key, text in replies([d]).items()}
    assert together == replies(asked)
    assert together != replies(asked, seed=1)
    assert len(set(replies([asked[0], *same]).values())) > 1


def test_a_reply_that_ends_at_the_limit_is_marked_as_cut_and_one_that_ends_its_turn_is_not(model, tokenizer):
    [messages] = dialogues(1).values()
    with closing(LocalPolicy(model, tokenizer, name="tiny", max_new_tokens=4)) as policy:
        [cut] = policy.act([Dialogue("a", messages)])
    assert (cut.completion_tokens, cut.cut) == (4, True)
    ending = deepcopy(model)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_ids(tokenizer, messages)]), use_cache=False).logits
    ending.generation_config.eos_token_id = int(logits[0, -1].argmax())
    with closing(LocalPolicy(ending, tokenizer, name="tiny", max_new_tokens=4)) as policy:
        [ended] = policy.act([Dialogue("a", messages)])
    assert (ended.completion_tokens, ended.cut) == (0, False)

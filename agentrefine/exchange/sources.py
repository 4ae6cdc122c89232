"""The data sets that can be read, by the keys of their records.

- `published`: the authors' data sets, parquet with `id` and `conversations` of `from`, `loss`, `value`
  (https://huggingface.co/datasets/fudayuan/AgentRefine-deepseek-4000, dataset card).
- `agenttraj`: AgentGym's AgentTraj-L, one JSON list per environment with `item_id` and `conversations` of `from`,
  `loss`, `value`; the first gpt message acknowledges the instructions with `loss` false
  (https://github.com/WooooDyy/AgentGym, README, "Trajectory Set").
- `agent-flan`: JSON lines with `id` and `conversation` of `role` (system, user, assistant), `content`, `loss`
  (https://huggingface.co/datasets/internlm/Agent-FLAN, dataset card).
- `agentinstruct`: parquet, one file per task, with `id` and `conversations` of `from`, `loss`, `value`
  (https://huggingface.co/datasets/THUDM/AgentInstruct, dataset card).
- `sharegpt`: general chat (`agentrefine.exchange.sharegpt`).
- `openai`, `axolotl`, `llamafactory-v1`: messages with a flag each, as `agentrefine.exchange.formats` writes them.
- `llamafactory`: chats of which the last message alone is trained (`mask_history`); those of one game that follow each
  other become one sample again.
- `trl`: messages, or a `prompt` of messages that are not trained and a `completion` of those that are
  (https://huggingface.co/docs/trl/dataset_formats).

Each reads every flag that any of them defines (`agentrefine.exchange.flags`).
"""

from agentrefine.exchange.chats import Layout
from agentrefine.exchange.sharegpt import SHAREGPT

SOURCES: dict[str, tuple[Layout, ...]] = {
    "published": (Layout("id", "conversations", "from", "value"),),
    "agenttraj": (Layout("item_id", "conversations", "from", "value"),),
    "agent-flan": (Layout("id", "conversation", "role", "content"),),
    "agentinstruct": (Layout("id", "conversations", "from", "value"),),
    "sharegpt": SHAREGPT,
    "openai": (Layout("id", "messages", "role", "content"),),
    "axolotl": SHAREGPT,
    "llamafactory": tuple(layout._replace(only_last_trained=True) for layout in SHAREGPT),
    "llamafactory-v1": (Layout("id", "messages", "role", "content"),),
    "trl": (
        Layout("id", "messages", "role", "content"),
        Layout("id", "completion", "role", "content", prompt="prompt"),
    ),
}

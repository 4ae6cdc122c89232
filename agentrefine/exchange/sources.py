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
"""

from agentrefine.exchange.chats import Layout
from agentrefine.exchange.sharegpt import SHAREGPT

SOURCES: dict[str, tuple[Layout, ...]] = {
    "published": (Layout("id", "conversations", "from", "value"),),
    "agenttraj": (Layout("item_id", "conversations", "from", "value"),),
    "agent-flan": (Layout("id", "conversation", "role", "content"),),
    "agentinstruct": (Layout("id", "conversations", "from", "value"),),
    "sharegpt": SHAREGPT,
}

"""A tuned model elsewhere: plain transformers and peft load it, and it answers as it does here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentrefine.evaluation.local import LocalPolicy
from agentrefine.evaluation.policy import Dialogue
from agentrefine.tuning.models import load_tuned
from agentrefine.tuning.train import tune
from tests.helpers.tuning_samples import conversation, job, write_base, write_data_set

ELSEWHERE = """
import json, sys
from pathlib import Path
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, base, chats = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
adapted = (folder / "adapter_config.json").exists()
model = AutoModelForCausalLM.from_pretrained(base if adapted else folder, dtype=torch.float32)
model = PeftModel.from_pretrained(model, folder) if adapted else model
tokenizer = AutoTokenizer.from_pretrained(folder)
for chat in chats:
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, do_sample=False, max_new_tokens=24)
    print(json.dumps(tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True)))
assert not any(name.startswith("agentrefine") for name in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_answers_the_same(tmp_path: Path, method: str) -> None:
    base, data_set = write_base(tmp_path / "base"), write_data_set(tmp_path / "data")
    settings = {"method": method, "epochs": 4} | ({"muon_learning_rate": None} if method == "lora" else {})
    tune(job(base, data_set, **settings), tmp_path / "tuned")
    histories = [conversation(number)[:cut] for number in (61, 62, 64) for cut in (3, 5)]
    policy = LocalPolicy(*load_tuned(tmp_path / "tuned"), name="tuned", max_new_tokens=24)
    here = [reply.text for reply in policy.act([Dialogue(str(i), h) for i, h in enumerate(histories)])]
    chats = [[{"role": m.role, "content": m.content} for m in history] for history in histories]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, str(tmp_path / "tuned"), str(base), json.dumps(chats)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    there = [json.loads(line) for line in done.stdout.splitlines()]
    assert there == here
    assert len({text for text in here if text}) > 1

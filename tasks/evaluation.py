"""Evaluation of local weights: a model plays the held-out benchmarks."""

from pathlib import Path

from agentrefine.errors import UserError, not_named
from agentrefine.evaluation.evaluate import Rules
from agentrefine.evaluation.policy import Policy
from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.sources import digest
from tasks.playing import Player

MODELS = Path("models")


def local_player(model: str, params: Params) -> Player:
    """The base or a tuned variant.

    Raises:
        UserError: params.yaml does not name the model, or its weights are missing.
    """
    if model not in params.evaluation.models:
        raise not_named("evaluation.models", model)
    if not (MODELS / model).is_dir():
        stage = "base_model" if model == BASE else f"tuning@{model}"
        message = f"{MODELS / model}: there is no such model; run the stage {stage}, which writes it."
        raise UserError("stage_not_run", message, file=MODELS / model, stage=stage)
    from agentrefine.tuning.models import load_tuned, model_digest  # imports torch and transformers

    def open_policy(rules: Rules, _spent: float) -> Policy:
        from agentrefine.evaluation.local import LocalPolicy

        loaded = load_tuned(MODELS / model)
        return LocalPolicy(
            loaded.model,
            loaded.tokenizer,
            name=model,
            max_new_tokens=rules.max_new_tokens,
            sampling=rules.sampling,
            seed=params.seed,
        )

    weights = model_digest(MODELS / model)
    return Player(model, weights, digest(__name__), open_policy, params.evaluation.max_new_tokens)

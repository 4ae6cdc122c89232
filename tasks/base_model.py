"""The base model as a task."""

from pathlib import Path

from prefect import get_run_logger, task

from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from tasks.tracking import runs
from tasks.tracking.contents import log_base
from tasks.tracking.progress import progress

FOLDER = Path("models") / BASE


@task(name="base_model")
def prepare_base_model(params: Params) -> None:
    """Make the tiny model, or check the one that `base_model.path` names, and open its MLflow run.

    Raises:
        UserError: a path or hub id that holds no usable model, or a tracking store that cannot be used.
    """
    from agentrefine.base_model.base import make_base  # imports torch and transformers
    from agentrefine.tuning.models import model_digest

    tiny = params.base_model.is_tiny
    with runs.live_model(BASE, params) as live:
        with progress("base_model", params.base_model.tiny.pretraining_tokens, "token", bar=tiny) as bar:
            made = make_base(params.base_model, params.seed, FOLDER, lambda done, _total: bar.reach(done))
        run_id = runs.adopt(live, BASE, model_digest(FOLDER), params)
    logger = get_run_logger()
    if tiny:
        logger.info("%d parameters, loss %.3f after %d tokens", made.parameters, made.loss, made.tokens)
    for remark in made.remarks:
        logger.warning("%s: %s", params.base_model.path, remark)
    log_base(run_id, params, FOLDER if tiny else None)

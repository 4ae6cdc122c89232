"""Upload a tuned model or the data set, with its card, to the Hugging Face hub.

    python -m flows.push_to_hub model refinement USER/REPO
    python -m flows.push_to_hub data_set USER/REPO

Shows what would be uploaded and asks before anything is. The key is taken from the environment variable HF_TOKEN.
"""

import sys

from agentrefine.errors import UserError
from agentrefine.params import load_params
from agentrefine.report.inputs import Project
from agentrefine.report.publishing import data_set_upload, model_upload, push, token_from_environment
from flows.cli import main


def push_to_hub(
    repo: str, variant: str | None, data_set: str | None, *, private: bool, licence: str | None, agreed: bool
) -> None:
    """Show, ask, upload.

    Args:
        repo: the id on the hub.
        variant: the model; None: the data set.
        data_set: the data set's id on the hub, for a model's card.
        private: whether others are kept from seeing it.
        licence: the hub's id of a licence; None names none.
        agreed: whether to upload without asking.

    Raises:
        UserError: something is missing, nobody is there to ask, or the hub refuses.
    """
    params, project = load_params(), Project()
    if variant is None:
        upload = data_set_upload(repo, params, project, private=private, licence=licence)
    else:
        upload = model_upload(variant, repo, params, project, data_set_id=data_set, private=private, licence=licence)
    print(upload.described())
    token = token_from_environment()
    print(push(upload, token) if agreed or _agreed() else "Nothing was uploaded.")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError(
            "nobody_to_ask", "Nothing was uploaded: nobody is there to ask; look at the list and add --yes."
        )
    return input("Upload? [y/N] ").strip().lower() in ("y", "yes")


if __name__ == "__main__":
    main(["push", *sys.argv[1:]])

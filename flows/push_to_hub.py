"""Upload a tuned model or the data set, with its card, to the Hugging Face hub.

    python -m flows.push_to_hub model refinement USER/REPO
    python -m flows.push_to_hub data_set USER/REPO

Shows what would be uploaded and asks before anything is. The key is taken from the environment variable HF_TOKEN.
"""

import argparse
import sys

from agentrefine.errors import UserError
from agentrefine.params import load_params
from agentrefine.report.inputs import Project
from agentrefine.report.publishing import data_set_upload, model_upload, push, token_from_environment
from flows.command import exit_with_sentence


def main() -> None:
    """Show, ask, upload."""
    arguments = _arguments()
    params, project = load_params(), Project()
    shared = {"private": arguments.private, "licence": arguments.license}
    if arguments.kind == "model":
        upload = model_upload(
            arguments.variant, arguments.repo, params, project, data_set_id=arguments.data_set, **shared
        )
    else:
        upload = data_set_upload(arguments.repo, params, project, **shared)
    print(upload.described())
    token = token_from_environment()
    if not (arguments.yes or _agreed()):
        print("Nothing was uploaded.")
        return
    print(push(upload, token))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    model = kinds.add_parser("model", help="a tuned model or its adapter")
    model.add_argument("variant", help="one of tuning.variants")
    model.add_argument("--data-set", metavar="USER/REPO", help="the data set's id on the hub, for the card")
    for kind in (model, kinds.add_parser("data_set", help="data/dataset")):
        kind.add_argument("repo", metavar="USER/REPO")
        kind.add_argument("--private", action=argparse.BooleanOptionalAction, default=True, help="default: private")
        kind.add_argument("--license", help="the hub's id of a licence, such as apache-2.0; without it none is named")
        kind.add_argument("--yes", action="store_true", help="do not ask")
    return parser.parse_args()


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("Nothing was uploaded: nobody is there to ask; look at the list and add --yes.")
    return input("HubUpload? [y/N] ").strip().lower() in ("y", "yes")


if __name__ == "__main__":
    exit_with_sentence(main)

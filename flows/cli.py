"""The command line `agentrefine`; without an installed script it is `python -m flows.cli`.

Only the command that is given is set up, and it imports its modules when it runs: they take seconds to import.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple, get_args

from agentrefine.errors import UserError
from flows.command import exit_with_sentence, run_stage

KEYS = {
    "synthesis": None,
    "verification": None,
    "refinement": None,
    "base_model": None,
    "quality_gate": None,
    "mix": "name",
    "tuning": "variant",
    "evaluation": "model",
    "report": None,
}
"""The stages in their order, each with the argument of its flow."""


class Subcommand(NamedTuple):
    """A command.

    Attributes:
        summary: one line of the list of commands.
        run: runs it; False makes the exit status 1.
        arguments: adds its arguments to its parser.
    """

    summary: str
    run: Callable[[argparse.Namespace], object]
    arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names every default that is a value."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, []) else action.help


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; bad input ends it with one sentence and status 1."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    listed = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        "agentrefine",
        usage="agentrefine [-h] COMMAND ...",
        description="Refinement tuning of language-model agents. `agentrefine COMMAND --help` names its arguments.",
        epilog="\n".join(["commands:", *listed]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        prog="agentrefine", dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, description=f"{command.summary}.", formatter_class=_Help)
        if words[:1] == [name]:
            command.arguments(own)

    def parse_and_run() -> object:
        parsed = parser.parse_args(words)
        return COMMANDS[parsed.command].run(parsed)

    exit_with_sentence(parse_and_run)


def _calling(target: str) -> Callable[[argparse.Namespace], object]:
    """Imports and calls a function, `module:function`, with the command's arguments by their names."""
    return lambda given: resolve_name(target)(**{key: value for key, value in vars(given).items() if key != "command"})


def _stage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=list(KEYS), metavar="name", help=f"the stage: {', '.join(KEYS)}")
    parser.add_argument("key", nargs="?", help="the mix, variant or model; only mix, tuning and evaluation take one")


def _stage(name: str, key: str | None) -> None:
    argument = KEYS[name]
    if (argument is None) != (key is None):
        message = f"stage {name}: {'takes no key' if argument is None else f'name the {argument} too'}."
        raise UserError("wrong_arguments", message, stage=name)
    if name == "tuning" and key is not None:
        from flows.tuning import tune

        tune(key)
    else:
        run_stage(lambda: resolve_name(f"flows.{name}:{name}"), **({argument: key} if argument and key else {}))


def _gold_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "benchmarks", nargs="*", metavar="benchmark", help="benchmarks to check; if none, all installed"
    )
    parser.add_argument("--episodes", dest="count", type=int, default=26, help="episodes of each benchmark")
    parser.add_argument(
        "--simulator-episodes", dest="simulator_count", type=int, default=6,
        help="episodes of each benchmark with a simulator",
    )  # fmt: skip
    parser.add_argument("--max-steps", type=int, default=30, help="steps per episode for chance and for doing nothing")
    parser.add_argument("--json", dest="out", type=Path, metavar="FILE", help="a JSON file for all that was measured")


def _train_on_argument(parser: argparse.ArgumentParser) -> None:
    from agentrefine.params.tuning import MaskPolicy

    parser.add_argument(
        "--train-on", choices=get_args(MaskPolicy), default="refinement", help="the turns that are trained"
    )


def _show_mask_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", default=Path("data/dataset/train.jsonl"), help="file of samples")
    parser.add_argument("--number", type=int, default=1, help="the number of the sample in the file, from 1")
    parser.add_argument("--model", default="models/base", help="the model whose tokenizer is used, a folder or hub id")
    parser.add_argument("--template", type=Path, help="a jinja file to use instead of the tokenizer's chat template")
    _train_on_argument(parser)


def _preset_arguments(parser: argparse.ArgumentParser) -> None:
    from agentrefine.params.presets import preset_names
    from flows.workspace import PRESETS

    parser.add_argument("names", nargs="+", metavar="name", help=f"a preset: {', '.join(preset_names(PRESETS))}")


def _preset(given: argparse.Namespace) -> None:
    from agentrefine.params.presets import apply_preset
    from flows.workspace import PRESETS, exclusive_use
    from tasks.params import PARAMS

    for name in given.names:
        with exclusive_use():
            changes = apply_preset(name, PARAMS, PRESETS)
        lines = list(map(str, changes)) or [f"{PARAMS} already holds the values of {PRESETS / name}.yaml."]
        print("\n".join(lines))


def _forecast(_: argparse.Namespace) -> None:
    run_stage(lambda: resolve_name("flows.synthesis:forecast"))


def _path(given: str) -> Path:
    from agentrefine.files import user_path

    return user_path(given)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    from agentrefine.exchange.export_formats import FORMATS

    parser.add_argument("format", choices=[*FORMATS, "trl"], help="the format to write")
    parser.add_argument("data_set", type=_path, help="the data set: a folder with train.jsonl and validation.jsonl")
    parser.add_argument("out", type=_path, help="the folder to write, which must not exist yet")
    _train_on_argument(parser)
    parser.add_argument("--model", default="models/base", help="for trl, the model whose tokenizer is used")
    parser.add_argument("--max-length", type=int, help="for trl, leave out turns beyond so many tokens; else keep all")


def _export(given: argparse.Namespace) -> None:
    from agentrefine.exchange.export_formats import FORMATS
    from agentrefine.exchange.write import export, export_tokens

    if given.format == "trl":
        from agentrefine.tuning.models import load_tokenizer

        tokenizer = load_tokenizer(given.model)
        written = export_tokens(given.data_set, given.out, given.train_on, tokenizer, given.max_length)
    else:
        written = export(FORMATS[given.format], given.data_set, given.out, given.train_on)
    for split, counts in written.items():
        turns = f"{counts.records:,} records with {counts.trained_turns:,} trained turns"
        print(f"{split}: {turns} from {counts.read:,} samples")
    print(f"written to {given.out}")


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    from agentrefine.exchange.read import SOURCES

    parser.add_argument("format", choices=list(SOURCES), help="the format of the files")
    parser.add_argument("files", type=_path, nargs="+", metavar="file", help="a .parquet, .json or .jsonl file")
    parser.add_argument("out", type=_path, help="the folder to write, which must not exist yet")
    parser.add_argument("--validation-share", type=float, default=0.03, help="share of samples held out for validation")
    parser.add_argument("--seed", type=int, default=7, help="the seed that decides which samples are held out")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="KEY",
        help="a key of records or messages to leave out, whatever it holds; may be given several times",
    )  # fmt: skip


def _import(given: argparse.Namespace) -> None:
    from agentrefine.exchange.read import SOURCES, import_chats

    source = SOURCES[given.format]
    print(import_chats(source, given.files, given.out, given.validation_share, given.seed, given.ignore).sentence())
    print(f"written to {given.out}")


def _card_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind")
    kinds.add_parser("model", help="the card of a tuned model").add_argument("variant", help="a key of tuning.variants")
    kinds.add_parser("data_set", help="the card of the data set in data/dataset")


def _card(given: argparse.Namespace) -> None:
    from agentrefine.params import load_params
    from agentrefine.report.cards import data_set_card, model_card
    from agentrefine.report.inputs import Project

    params, project = load_params(), Project()
    print(
        model_card(given.variant, params, project) if given.kind == "model" else data_set_card(params, project), end=""
    )


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind")
    model = kinds.add_parser("model", help="a tuned model or its adapter", formatter_class=_Help)
    model.add_argument("variant", help="a key of tuning.variants in params.yaml")
    model.add_argument("--data-set", metavar="USER/REPO", help="the data set's id on the hub, for the card")
    for kind in (model, kinds.add_parser("data_set", help="the data set in data/dataset", formatter_class=_Help)):
        kind.add_argument("repo", metavar="USER/REPO", help="the repository on the hub")
        kind.add_argument("--private", action=argparse.BooleanOptionalAction, default=True, help="hide it from others")
        kind.add_argument("--license", help="the hub's id of a licence, such as apache-2.0; without it none is named")
        kind.add_argument("--yes", action="store_true", help="upload without asking")


def _push(given: argparse.Namespace) -> None:
    from agentrefine.params import load_params
    from agentrefine.report.inputs import Project
    from agentrefine.report.publishing import data_set_upload, model_upload, push, token_from_environment

    params, project, private, licence = load_params(), Project(), given.private, given.license
    if given.kind == "data_set":
        upload = data_set_upload(given.repo, params, project, private=private, licence=licence)
    else:
        upload = model_upload(
            given.variant, given.repo, params, project, private=private, licence=licence, data_set_id=given.data_set
        )
    print(upload.described())
    token = token_from_environment()
    if not given.yes and not sys.stdin.isatty():
        message = "Nothing was uploaded: nobody is there to ask; look at the list and add --yes."
        raise UserError("nobody_to_ask", message)
    agreed = given.yes or input("Upload? [y/N] ").strip().lower() in ("y", "yes")
    print(push(upload, token) if agreed else "Nothing was uploaded.")


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefect-port", type=int, default=4200, help="the port of Prefect's server")
    parser.add_argument("--mlflow-port", type=int, default=5000, help="the port of MLflow's pages")


def _params(given: argparse.Namespace) -> None:
    from agentrefine.params import Params, load_params
    from agentrefine.params.base import commented

    print(commented(Params() if given.defaults else load_params()))


def _smollm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", help="a hub id, a folder or a GGUF file, instead of SmolLM2 from hub or package")
    parser.add_argument(
        "-S", "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="a parameter to set, such as tuning.epochs=2; may be given several times",
    )  # fmt: skip


COMMANDS = {
    "run": Subcommand("Run every stage that is out of date", _calling("flows.pipeline:run_pipeline")),
    "stage": Subcommand("Run one stage", lambda given: _stage(given.name, given.key), _stage_arguments),
    "tune": Subcommand(
        "Tune a variant",
        lambda given: _stage("tuning", given.variant),
        lambda parser: parser.add_argument("variant", help="a key of tuning.variants in params.yaml"),
    ),
    "evaluate": Subcommand(
        "Let a model play the held-out benchmarks",
        lambda given: _stage("evaluation", given.model),
        lambda parser: parser.add_argument("model", help="chance, base, a tuned variant, or an endpoint's name"),
    ),
    "gold-check": Subcommand(
        "Play benchmarks by their own solutions, by chance and not at all",
        _calling("agentrefine.evaluation.gold_check:gold_check"),
        _gold_check_arguments,
    ),
    "show-mask": Subcommand(
        "Show what of a sample is trained, masked and context",
        _calling("flows.show_mask:show_mask"),
        _show_mask_arguments,
    ),
    "preset": Subcommand("Write the values of presets into params.yaml", _preset, _preset_arguments),
    "forecast": Subcommand("Forecast the data set's cost from a pilot of a few personas", _forecast),
    "export": Subcommand("Write a data set in another tool's format", _export, _export_arguments),
    "import": Subcommand("Read a data set of another format", _import, _import_arguments),
    "mix": Subcommand(
        "Mix general chat into a data set",
        lambda given: _stage("mix", given.name),
        lambda parser: parser.add_argument("name", help="a key of the section mix in params.yaml"),
    ),
    "card": Subcommand("Print a model's or the data set's card for the hub", _card, _card_arguments),
    "push": Subcommand("Upload a model or the data set with its card to the hub", _push, _push_arguments),
    "serve": Subcommand(
        "Start Prefect's server, a worker and MLflow on this machine", _calling("flows.serve:serve"), _serve_arguments
    ),
    "params": Subcommand(
        "Print every parameter with its value and comment",
        _params,
        lambda parser: parser.add_argument("--defaults", action="store_true", help="print the defaults instead"),
    ),
    "smollm": Subcommand(
        "Run the pipeline with SmolLM2-135M in runs/smollm", _calling("flows.smollm:run_smollm"), _smollm_arguments
    ),
}  # fmt: skip

if __name__ == "__main__":
    main()

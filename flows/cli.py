"""The command line `agentrefine`; without an installed script it is `python -m flows.cli`.

Only the command that is given is set up, and it imports its modules when it runs: they take seconds to import.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from agentrefine.errors import UserError, unknown_name
from flows.command import exit_with_sentence, run_stage

if TYPE_CHECKING:
    from prefect import Flow
    from transformers import PreTrainedTokenizerBase

    from agentrefine.params import Params

ARGUMENTS = {
    "synthesis": None,
    "verification": None,
    "repair": None,
    "base_model": None,
    "quality_gate": None,
    "mix": "name",
    "on_policy": "name",
    "tuning": "variant",
    "evaluation": "model",
    "reference_evaluation": "model",
    "endpoint_evaluation": "model",
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
        if words and not words[0].startswith("-") and words[0] not in COMMANDS:
            parser.error(_no_command(words))
        parsed, further = parser.parse_known_args(words)
        if further:
            parser.error(_too_much(parsed.command, further))
        return COMMANDS[parsed.command].run(parsed)

    exit_with_sentence(parse_and_run)


def _no_command(words: Sequence[str]) -> str:
    """What is wrong with a command that there is not, and what was probably meant."""
    stage, _, key = words[0].partition("@")
    if stage not in ARGUMENTS:
        return str(unknown_name("agentrefine", "command", words[0], COMMANDS))
    meant = [stage, *([key] if key else words[1:] or filter(None, [ARGUMENTS[stage]]))]
    return f"{words[0]} is a stage; write `agentrefine stage {' '.join(meant)}`"


def _too_much(command: str, further: Sequence[str]) -> str:
    """What is wrong with arguments that a command does not take, and what was probably meant."""
    stage = further[0].partition("@")[0]
    hint = f"; write `agentrefine stage {stage}` to run it alone" if command == "run" and stage in ARGUMENTS else ""
    return f"{command} does not take {' '.join(further)}{hint}; `agentrefine {command} --help` names its arguments"


def _stage_name(given: str) -> str:
    """A stage as it is typed."""
    stage, _, key = given.partition("@")
    if given in ARGUMENTS:
        return given
    if key and stage in ARGUMENTS:
        raise argparse.ArgumentTypeError(f"write the key behind a space: `agentrefine stage {stage} {key}`")
    raise argparse.ArgumentTypeError(str(unknown_name("stage", "stage", given, ARGUMENTS)).removeprefix("stage: "))


def _run(_: argparse.Namespace) -> None:
    from flows.pipeline import run_pipeline

    run_pipeline()


def _stage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=_stage_name, help=f"the stage: {', '.join(ARGUMENTS)}")
    parser.add_argument(
        "key",
        nargs="?",
        help="the mix, data set, variant or model; a stage that takes one lists what there is",
    )


def _stage(name: str, key: str | None) -> None:
    argument = ARGUMENTS[name]
    if argument is None and key is not None:
        raise UserError("wrong_arguments", f"stage {name}: takes no key; leave {key!r} out.", stage=name)
    if argument is not None:
        from agentrefine.params import load_params
        from tasks.names import check_name

        check_name(name, key, load_params())
    if name == "tuning" and key is not None:
        from flows.tuning import tune

        tune(key)
    else:
        run_stage(lambda: stage_flow(name), **({argument: key} if argument and key else {}))


def stage_flow(name: str) -> "Flow[..., Any]":
    """The flow of a stage, whose module alone is imported; raises KeyError where there is no such stage."""
    match name:
        case "synthesis":
            from flows.synthesis import synthesis

            return synthesis
        case "verification":
            from flows.verification import verification

            return verification
        case "repair":
            from flows.repair import repair

            return repair
        case "base_model":
            from flows.base_model import base_model

            return base_model
        case "quality_gate":
            from flows.quality_gate import quality_gate

            return quality_gate
        case "mix":
            from flows.mix import mix

            return mix
        case "on_policy":
            from flows.on_policy import on_policy

            return on_policy
        case "tuning":
            from flows.tuning import tuning

            return tuning
        case "evaluation" | "reference_evaluation" | "endpoint_evaluation":
            from flows.evaluation import evaluation

            return evaluation
        case "report":
            from flows.report import report

            return report
    raise KeyError(name)


def _gold_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "benchmarks", nargs="*", metavar="benchmark", help="benchmarks to check; if none, all installed"
    )
    parser.add_argument("--episodes", dest="count", type=_count, default=26, help="episodes of each benchmark")
    parser.add_argument(
        "--simulator-episodes", dest="simulator_count", type=_count, default=6,
        help="episodes of each benchmark with a simulator",
    )  # fmt: skip
    parser.add_argument(
        "--max-steps", type=_count, default=30, help="steps per episode for chance and for doing nothing"
    )
    parser.add_argument("--json", dest="out", type=Path, metavar="FILE", help="a JSON file for all that was measured")


def _count(given: str) -> int:
    """A number of things that a command is to have."""
    if not given.isdigit() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is no whole number above 0")
    return int(given)


def _gold_check(given: argparse.Namespace) -> bool:
    from agentrefine.evaluation.gold_check import gold_check

    return gold_check(given.benchmarks, given.count, given.simulator_count, given.max_steps, given.out)


def _train_on_argument(parser: argparse.ArgumentParser) -> None:
    from agentrefine.params.tuning import MaskPolicy

    parser.add_argument(
        "--train-on", choices=get_args(MaskPolicy), default="correct_turns", help="the turns that are trained"
    )


def _show_mask_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", default=Path("data/dataset/train.jsonl"), help="file of samples")
    parser.add_argument("--number", type=int, default=1, help="the number of the sample in the file, from 1")
    parser.add_argument("--model", default="models/base", help="the model whose tokenizer is used, a folder or hub id")
    parser.add_argument("--template", type=Path, help="a jinja file to use instead of the tokenizer's chat template")
    _train_on_argument(parser)


def _show_mask(given: argparse.Namespace) -> None:
    from agentrefine.files import file_missing

    if given.number < 1:
        message = f"--number: counts from 1, not {given.number}."
        raise UserError("bad_value", message, key="--number", value=given.number)
    if not given.file.is_file():
        remedy = "name a file of samples, or run the stage quality_gate, which writes one"
        raise file_missing(given.file, remedy, "file")
    from flows.show_mask import show_mask  # imports transformers

    show_mask(given.file, given.number, _tokenizer(given.model, given.template), given.train_on)


def _preset_arguments(parser: argparse.ArgumentParser) -> None:
    from agentrefine.params.presets import preset_names
    from flows.workspace import PRESETS

    parser.add_argument("names", nargs="+", metavar="name", help=f"a preset: {', '.join(preset_names(PRESETS))}")


def _preset(given: argparse.Namespace) -> None:
    from agentrefine.params.presets import apply_preset, values_beside
    from flows.workspace import PRESETS, exclusive_use
    from tasks.params import PARAMS

    for name in given.names:
        file = f"{PRESETS / name}.yaml"
        with exclusive_use():
            changes = apply_preset(name, PARAMS, PRESETS)
        beside = values_beside(name, PARAMS, PRESETS)
        print(f"{file} changes {PARAMS}:" if changes else f"{PARAMS} already holds the values of {file}.")
        for change in changes:
            print(f"  {change}")
        if beside:
            print(f"Other values of {PARAMS} that are not the defaults stay as they are:")
        for change in beside:
            print(f"  {change.key}: {change.new} (default: {change.old or 'none'})")


def _forecast(_: argparse.Namespace) -> None:
    def load() -> "Flow[..., Any]":
        from flows.synthesis import forecast

        return forecast

    run_stage(load)


def _path(given: str) -> Path:
    from agentrefine.files import user_path

    return user_path(given)


def _tokenizer(model: str, template: Path | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer of `--model`, with `--template` in place of its chat template; errors name these arguments."""
    from agentrefine.files import file_missing
    from agentrefine.tuning.models import load_tokenizer

    if template is not None and not template.is_file():
        raise file_missing(template, "name a jinja file", "--template")
    try:
        return load_tokenizer(model, template)
    except UserError as error:
        if error.code != "model_missing":
            raise
        sentence = f"{model} is neither a folder here nor a model that the Hugging Face hub gives"
        remedy = "run the stage base_model, which writes models/base, or name another folder or hub id."
        raise UserError("model_missing", f"--model: {sentence}; {remedy}", key="--model", model=model) from error


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
    from agentrefine.files import file_missing
    from agentrefine.quality.data_set import SPLITS

    for file in (given.data_set / f"{split}.jsonl" for split in SPLITS):
        if not file.is_file():
            raise file_missing(file, "name a folder that holds it", "data_set")
    if given.format == "trl":
        tokenizer = _tokenizer(given.model)
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
    from agentrefine.files import file_missing

    for file in given.files:
        if not file.exists():
            raise file_missing(file, "name the files to read", "file")
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
    if given.kind == "model":
        _check_tuned(given.variant, params)
    print(
        model_card(given.variant, params, project) if given.kind == "model" else data_set_card(params, project), end=""
    )


def _check_tuned(variant: str, params: "Params") -> None:
    """Refuse a variant that params.yaml does not name, unless an earlier one was tuned under this name."""
    from tasks.names import check_name

    if not Path("models", variant).is_dir():
        check_name("tuning", variant, params)


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
        _check_tuned(given.variant, params)
        upload = model_upload(
            given.variant, given.repo, params, project, private=private, licence=licence, data_set_id=given.data_set
        )
    print(upload.described())
    token = token_from_environment()
    if not given.yes and (sys.stdin is None or not sys.stdin.isatty()):
        message = "Nothing was uploaded: nobody is there to ask; look at the list and add --yes."
        raise UserError("nobody_to_ask", message)
    if not given.yes:
        print("Upload? [y/N] ", end="", flush=True)
    agreed = given.yes or sys.stdin.readline().strip().lower() in ("y", "yes")  # at Ctrl-D it is empty
    print(push(upload, token) if agreed else "Nothing was uploaded.")


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefect-port", type=int, default=4200, help="the port of Prefect's server")
    parser.add_argument("--mlflow-port", type=int, default=5000, help="the port of MLflow's pages")


def _serve(given: argparse.Namespace) -> None:
    from flows.serve import serve

    serve(given.prefect_port, given.mlflow_port)


def _params(given: argparse.Namespace) -> None:
    from agentrefine.params import Params, load_params
    from agentrefine.params.base import commented

    print(commented(Params() if given.defaults else load_params()))


def _smollm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", help="a hub id, a folder or a GGUF file, instead of SmolLM2 from hub or package")
    _overrides_argument(parser)


def _overrides_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-S", "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="a parameter to set, such as tuning.epochs=2; may be given several times",
    )  # fmt: skip


def _seeds(given: argparse.Namespace) -> None:
    from agentrefine.params.seeds import write_seeds
    from flows.workspace import exclusive_use
    from tasks.params import PARAMS

    with exclusive_use():
        write_seeds(PARAMS, given.seeds)
    print(f"{PARAMS} names a variant for each variant and seed now; `agentrefine run` tunes and plays them.")


def _study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="tiny", help="of the study: runs/study/NAME and reports/study/NAME")
    parser.add_argument("--seeds", nargs="*", type=int, default=[7, 8, 9], help="none: only write the page again")
    parser.add_argument(
        "--preset", dest="presets", action="append", default=[], help="before the study's own, such as a model's"
    )
    _overrides_argument(parser)


def _study(given: argparse.Namespace) -> None:
    from flows.study import run_study

    run_study(given.name, given.seeds, given.presets, given.overrides)


def _smoke(given: argparse.Namespace) -> None:
    from flows.smoke import run_smoke

    run_smoke(given.overrides)


def _smollm(given: argparse.Namespace) -> None:
    from flows.smollm import run_smollm

    run_smollm(given.base, given.overrides)


COMMANDS = {
    "run": Subcommand("Run every stage that is out of date", _run),
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
        _gold_check,
        _gold_check_arguments,
    ),
    "show-mask": Subcommand(
        "Show which tokens of a sample are trained, masked (a mistake's) and context", _show_mask, _show_mask_arguments
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
    "serve": Subcommand("Start Prefect's server, a worker and MLflow on this machine", _serve, _serve_arguments),
    "params": Subcommand(
        "Print every parameter with its value and comment",
        _params,
        lambda parser: parser.add_argument("--defaults", action="store_true", help="print the defaults instead"),
    ),
    "smoke": Subcommand(
        "Run every stage of the default run on a few personas in runs/smoke, in two minutes",
        _smoke,
        _overrides_argument,
    ),
    "seeds": Subcommand(
        "Tune every variant of params.yaml once for each seed",
        _seeds,
        lambda parser: parser.add_argument("seeds", nargs="+", type=int, help="such as 7 8 9"),
    ),
    "study": Subcommand("Compare mask policies and own mistakes over seeds", _study, _study_arguments),
    "smollm": Subcommand("Run the pipeline with SmolLM2-135M in runs/smollm", _smollm, _smollm_arguments),
}  # fmt: skip

if __name__ == "__main__":
    main()

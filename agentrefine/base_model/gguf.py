"""Models in GGUF files: what such a file holds, and its weights and tokenizer as an ordinary folder.

transformers reads the file and dequantises its weights. What it would read wrongly, or fail at with an error that says
little, is refused here before.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from gguf import GGUFReader, GGUFValueType, LlamaFileType, ReaderTensor
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.quantization_config import GgufConfig

from agentrefine.errors import UserError, first_line
from agentrefine.files import file_missing

PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Tensor types that hold numbers as they are."""

DEQUANTISED = torch.bfloat16
"""What dequantised weights are kept in. Its rounding, 0.2% of a weight, is small beside that of eight bits or fewer."""

DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Vocabularies, by the names of `tokenizer.ggml.pre`, in which each digit is a word and all else is split as by GPT-2.

transformers knows none of these names and joins digits to the spaces before them.
"""

KNOWN_SPLITS = ("default", "gpt-2", *DIGITS_APART)
"""Beside those that transformers knows itself."""

LLAMA_CPP_NAMES = ("qwen2moe", "qwen3moe", "gpt-oss", "minimax-m2")
"""Architectures that transformers reads and lists under another name."""

NO_CAUSAL_MODELS = ("bert", "clip", "jina-bert-v2", "modern-bert", "nomic-bert", "t5", "t5encoder", "wavtokenizer-dec")
"""Architectures whose models read text, images or sounds and do not write on."""

KINDS = {
    "adapter": "a LoRA adapter",
    "mmproj": "a projector of images or sounds",
    "vocab": "a vocabulary without weights",
    "imatrix": "statistics for quantising",
}
"""Other values of `general.type` than `model`."""

FILE_TYPES = {
    kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
    for kind in LlamaFileType
    if kind is not LlamaFileType.GUESSED
}
"""Quantisations by the numbers of `general.file_type`."""

READABLE = frozenset({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS, *LLAMA_CPP_NAMES})
"""Architectures that transformers reads, by llama.cpp's names."""

_BROKEN = (OSError, ValueError, KeyError, IndexError, OverflowError)
"""What the `gguf` package raises on bytes that are no GGUF file, or only a part of one."""

_UNREADABLE = (*_BROKEN, TypeError, AttributeError, RuntimeError)
"""What transformers raises on a whole file that does not hold what it expects of the architecture."""


class GgufFile(NamedTuple):
    """What a GGUF file says of itself, for example

        GgufFile(path=Path("SmolLM2-135M-Instruct.Q4_1.gguf"), architecture="llama", name="Smollm2 135M",
                 licence="apache-2.0", quantisation="Q4_1", tensor_types={"Q4_1": 210, "F32": 61, "Q8_0": 1},
                 dtype=torch.bfloat16, pre_tokenizer="smollm", context=8192)

    Attributes:
        path: of the file.
        architecture: by llama.cpp's names.
        name, licence: empty where the file names none.
        quantisation: of most weights; F32, F16 or BF16 where they are not quantised.
        tensor_types: how many tensors are kept in which type.
        dtype: in which the weights are kept once they are read.
        pre_tokenizer: how the tokenizer splits text, by llama.cpp's names; empty where the file does not say.
        context: the longest text that the model reads, tokens; None where the file does not say.
    """

    path: Path
    architecture: str
    name: str
    licence: str
    quantisation: str
    tensor_types: dict[str, int]
    dtype: torch.dtype
    pre_tokenizer: str
    context: int | None

    @property
    def is_quantised(self) -> bool:
        """Whether weights are kept in fewer bits than they had."""
        return self.quantisation not in PLAIN_TYPES


def read_gguf(path: Path) -> GgufFile:
    """Read a file's metadata and the table of its tensors.

    Raises:
        UserError: there is no such file, it is not GGUF, it is cut off, or it holds no whole model.
    """
    if not path.is_file():
        raise file_missing(path, "correct base_model.path in params.yaml")
    with path.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise UserError(
                "not_gguf",
                f"{path}: is not a GGUF file, whatever its name says; set base_model.path to one that is.",
                file=path,
            )
    try:
        reader = GGUFReader(path)
        fields = {
            name: field.contents() for name, field in reader.fields.items() if GGUFValueType.ARRAY not in field.types
        }
        tensors = reader.tensors
    except _BROKEN as error:
        raise UserError(
            "file_damaged",
            f"{path}: this GGUF file is damaged or was not fetched to its end ({_reason(error)}); fetch it again.",
            file=path,
        ) from error
    _check_kind(path, fields, tensors)
    types = Counter(tensor.tensor_type.name for tensor in tensors)
    architecture = str(fields["general.architecture"])
    context = fields.get(f"{architecture}.context_length")
    return GgufFile(
        path=path,
        architecture=architecture,
        name=str(fields.get("general.name", "")),
        licence=str(fields.get("general.license", "")),
        quantisation=_quantisation(fields.get("general.file_type"), tensors),
        tensor_types=dict(types.most_common()),
        dtype=_dtype(tensors),
        pre_tokenizer=str(fields.get("tokenizer.ggml.pre", "")),
        context=context if isinstance(context, int) else None,
    )


def read_model(file: GgufFile) -> PreTrainedModel:
    """The model of a GGUF file, its weights dequantised.

    Raises:
        UserError: it is no causal language model that transformers can read, or weights are missing or not finite.
    """
    folder, name = str(file.path.parent), file.path.name
    try:
        config = AutoConfig.from_pretrained(folder, gguf_file=name)
    except _UNREADABLE as error:
        raise _cannot_read(file, error) from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise _no_language_model(file.path, f"a model of the architecture {file.architecture}")
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            config=config,
            dtype=file.dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            trust_remote_code=False,
        )
    except _UNREADABLE as error:
        raise _cannot_read(file, error) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise UserError(
            "model_unusable",
            f"{file.path}: lacks {len(missing)} of its model's weights, such as {missing[0]}; fetch another file.",
            file=file.path,
            missing=len(missing),
            weight=missing[0],
        )
    spoiled = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if spoiled:
        raise UserError(
            "file_damaged",
            f"{file.path}: the weights {spoiled[0]} are not finite, so it is damaged; fetch it again.",
            file=file.path,
            weight=spoiled[0],
        )
    return model


def read_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file, with the file's chat template if there is one.

    Raises:
        UserError: it has none that transformers can read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(file.path.parent), gguf_file=file.path.name, trust_remote_code=False
        )
    except _UNREADABLE as error:
        raise UserError(
            "model_unusable",
            f"{file.path}: holds no tokenizer that transformers can read ({_reason(error)}); set base_model.path to "
            "another file, or to a folder or hub id of the same model.",
            file=file.path,
            part="tokenizer",
        ) from error
    if file.pre_tokenizer in DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if file.context is not None:
        tokenizer.model_max_length = file.context
    tokenizer.name_or_path = str(file.path)
    return tokenizer


def tokenizer_remarks(file: GgufFile) -> list[str]:
    """What is worth knowing of how the tokenizer splits text; nothing where it does as the model has learned it."""
    if file.pre_tokenizer in (*KNOWN_SPLITS, *GGUF_PRE_TOKENIZER_SPLITS, ""):
        return []
    return [
        f"The file splits text as {file.pre_tokenizer!r} does, which transformers does not know: it splits as GPT-2 "
        "does, and some texts may become other tokens than the model has learned."
    ]


def _check_kind(path: Path, fields: dict[str, object], tensors: list[ReaderTensor]) -> None:
    """Refuse a file that is no whole language model, by what it says itself."""
    kind = str(fields.get("general.type", "model"))
    if kind != "model":
        raise _no_language_model(path, KINDS.get(kind, f"something of the type {kind}"))
    if "general.architecture" not in fields:
        raise UserError(
            "model_unusable",
            f"{path}: this GGUF file names no architecture; set base_model.path to another file.",
            file=path,
            part="architecture",
        )
    if not tensors:
        raise _no_language_model(path, "a vocabulary without weights")
    parts = fields.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise UserError(
            "model_unusable",
            f"{path}: is one of {parts} parts of a model, which transformers cannot read; join them with llama.cpp's "
            "`llama-gguf-split --merge` and set base_model.path to the whole file.",
            file=path,
            parts=parts,
        )
    architecture = str(fields["general.architecture"])
    if architecture in NO_CAUSAL_MODELS:
        raise _no_language_model(path, f"a model of the architecture {architecture}")
    if architecture not in READABLE:
        raise UserError(
            "model_unusable",
            f"{path}: holds a model of the architecture {architecture}, which transformers cannot read from GGUF; set "
            "base_model.path to a folder or hub id of the same model.",
            file=path,
            architecture=architecture,
        )


def _quantisation(file_type: object, tensors: list[ReaderTensor]) -> str:
    """What most weights are kept in: as the file says it, or, where it does not, the type of the most numbers."""
    numbers = Counter[str]()
    for tensor in tensors:
        numbers[tensor.tensor_type.name] += int(tensor.n_elements)
    most = numbers.most_common(1)[0][0]
    stated = FILE_TYPES.get(file_type, most) if isinstance(file_type, int) else most
    return most if (most in PLAIN_TYPES) != (stated in PLAIN_TYPES) else stated


def _dtype(tensors: list[ReaderTensor]) -> torch.dtype:
    """The file's own type where its matrices are not quantised and all of one type."""
    types = {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1}
    return PLAIN_TYPES.get(types.pop(), DEQUANTISED) if len(types) == 1 else DEQUANTISED


def _no_language_model(path: Path, held: str) -> UserError:
    return UserError(
        "model_unusable",
        f"{path}: holds {held}, no causal language model; set base_model.path to a file that does.",
        file=path,
        held=held,
    )


def _cannot_read(file: GgufFile, error: Exception) -> UserError:
    return UserError(
        "model_unusable",
        f"{file.path}: transformers cannot read this model of the architecture {file.architecture} from GGUF "
        f"({_reason(error)}); set base_model.path to another file, or to a folder or hub id of the same model.",
        file=file.path,
        architecture=file.architecture,
    )


def _reason(error: Exception) -> str:
    return first_line(error)[:150]

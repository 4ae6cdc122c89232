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

READABLE = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS, "qwen2moe", "qwen3moe", "gpt-oss", "minimax-m2"}
"""Architectures that transformers reads, by llama.cpp's names; it lists the last four under others."""

_SET_OTHER = "set base_model.path to another file, or to a folder or hub id of the same model"

_BROKEN = (OSError, ValueError, KeyError, IndexError, OverflowError)
"""What the `gguf` package raises on bytes that are no GGUF file, or only a part of one."""

_UNREADABLE = (*_BROKEN, TypeError, AttributeError, RuntimeError)
"""What transformers raises on a whole file that does not hold what it expects of the architecture."""


class GgufFile(NamedTuple):
    """What a GGUF file says of itself.

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
            sentence = "is not a GGUF file, whatever its name says; set base_model.path to one that is"
            raise _refusal("not_gguf", path, sentence)
    try:
        reader = GGUFReader(path)
        fields = {
            name: field.contents() for name, field in reader.fields.items() if GGUFValueType.ARRAY not in field.types
        }
        tensors = reader.tensors
    except _BROKEN as error:
        sentence = f"this GGUF file is damaged or was not fetched to its end ({_reason(error)}); fetch it again"
        raise _refusal("file_damaged", path, sentence) from error
    architecture = _checked_architecture(path, fields, tensors)
    types = Counter(tensor.tensor_type.name for tensor in tensors)
    matrices = {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1}
    context = fields.get(f"{architecture}.context_length")
    return GgufFile(
        path=path,
        architecture=architecture,
        name=str(fields.get("general.name", "")),
        licence=str(fields.get("general.license", "")),
        quantisation=_quantisation(fields.get("general.file_type"), tensors),
        tensor_types=dict(types.most_common()),
        # The file's own type where its matrices are not quantised and all of one type.
        dtype=PLAIN_TYPES.get(matrices.pop(), DEQUANTISED) if len(matrices) == 1 else DEQUANTISED,
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
        if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise _no_language_model(file.path, f"a model of the architecture {file.architecture}")
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
        sentence = (
            f"transformers cannot read this model of the architecture {file.architecture} from GGUF "
            f"({_reason(error)}); {_SET_OTHER}"
        )
        raise _refusal("model_unusable", file.path, sentence, architecture=file.architecture) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        sentence = f"lacks {len(missing)} of its model's weights, such as {missing[0]}; fetch another file"
        raise _refusal("model_unusable", file.path, sentence, missing=len(missing), weight=missing[0])
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            sentence = f"the weights {name} are not finite, so it is damaged; fetch it again"
            raise _refusal("file_damaged", file.path, sentence, weight=name)
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
        sentence = f"holds no tokenizer that transformers can read ({_reason(error)}); {_SET_OTHER}"
        raise _refusal("model_unusable", file.path, sentence, part="tokenizer") from error
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
    if file.pre_tokenizer in ("", "default", "gpt-2", *DIGITS_APART, *GGUF_PRE_TOKENIZER_SPLITS):
        return []
    return [
        f"The file splits text as {file.pre_tokenizer!r} does, which transformers does not know: it splits as GPT-2 "
        "does, and some texts may become other tokens than the model has learned."
    ]


def _checked_architecture(path: Path, fields: dict[str, object], tensors: list[ReaderTensor]) -> str:
    """The architecture that a file names; one that says that it holds no whole language model is refused."""
    kind = str(fields.get("general.type", "model"))
    if kind != "model":
        raise _no_language_model(path, KINDS.get(kind, f"something of the type {kind}"))
    if "general.architecture" not in fields:
        sentence = "this GGUF file names no architecture; set base_model.path to another file"
        raise _refusal("model_unusable", path, sentence, part="architecture")
    if not tensors:
        raise _no_language_model(path, "a vocabulary without weights")
    parts = fields.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        sentence = (
            f"is one of {parts} parts of a model, which transformers cannot read; join them with llama.cpp's "
            "`llama-gguf-split --merge` and set base_model.path to the whole file"
        )
        raise _refusal("model_unusable", path, sentence, parts=parts)
    architecture = str(fields["general.architecture"])
    if architecture in NO_CAUSAL_MODELS:
        raise _no_language_model(path, f"a model of the architecture {architecture}")
    if architecture not in READABLE:
        sentence = (
            f"holds a model of the architecture {architecture}, which transformers cannot read from GGUF; set "
            "base_model.path to a folder or hub id of the same model"
        )
        raise _refusal("model_unusable", path, sentence, architecture=architecture)
    return architecture


def _quantisation(file_type: object, tensors: list[ReaderTensor]) -> str:
    """What most weights are kept in: as the file says it, or, where it does not, the type of the most numbers."""
    numbers = Counter[str]()
    for tensor in tensors:
        numbers[tensor.tensor_type.name] += int(tensor.n_elements)
    most = numbers.most_common(1)[0][0]
    stated = FILE_TYPES.get(file_type, most) if isinstance(file_type, int) else most
    return most if (most in PLAIN_TYPES) != (stated in PLAIN_TYPES) else stated


def _no_language_model(path: Path, held: str) -> UserError:
    sentence = f"holds {held}, no causal language model; set base_model.path to a file that does"
    return _refusal("model_unusable", path, sentence, held=held)


def _refusal(code: str, path: Path, sentence: str, **values: object) -> UserError:
    return UserError(code, f"{path}: {sentence}.", file=path, **values)


def _reason(error: Exception) -> str:
    return first_line(error)[:150]

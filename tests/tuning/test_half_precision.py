"""Where a processor has no instructions for bf16, nothing multiplies matrices in bf16 or fp16."""

from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agentrefine.evaluation.local import BatchedGenerator, LocalPolicy
from agentrefine.evaluation.policy import Dialogue
from agentrefine.params.tuning import TinyModel
from agentrefine.simulation.tiny_base import make_tiny_base
from agentrefine.tuning import hardware
from agentrefine.tuning.hardware import multiplies_bf16
from agentrefine.tuning.models import load_base, load_tuned
from agentrefine.tuning.optimizer import CpuMuon, orthogonalized
from agentrefine.tuning.train import tune
from tests.helpers.errors import refused
from tests.helpers.tuning_samples import conversation, job

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "matmul", "convolution")
HALF = (torch.bfloat16, torch.float16)
TINY = TinyModel(
    hidden_size=32, intermediate_size=64, layers=1, heads=2, max_length=2048,
    pretraining_tokens=2_000, batch_tokens=1_024, learning_rate=1e-3, muon_learning_rate=0.01,
)  # fmt: skip


class Products(TorchDispatchMode):
    """Counts the products of matrices, attention among them, and those with an operand of half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.half: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Look at one operation and run it."""
        name = func.overloadpacket.__name__
        if name in PRODUCTS or "scaled_dot_product" in name:
            self.seen += 1
            operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            if any(operand.dtype in HALF for operand in operands):
                self.half.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has no instructions for bf16."""
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: False)


@pytest.fixture
def products() -> Iterator[Products]:
    """Watches all that the test computes in this thread."""
    with Products() as products:
        yield products


def saved_as(base, dtype, folder):
    """The base with its weights in another precision."""
    model, tokenizer = load_base(base)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def counted(method, products):
    """A method whose products of matrices are counted in whatever thread it runs."""

    def run(*arguments):
        with products:
            return method(*arguments)

    return run


def play_a_turn(folder, products, monkeypatch):
    """Let a model answer two dialogues; its threads are watched too."""
    for name in ("add", "step"):
        monkeypatch.setattr(BatchedGenerator, name, counted(getattr(BatchedGenerator, name), products))
    loaded = load_tuned(folder)
    dialogues = [Dialogue(str(number), conversation(number)[:3]) for number in range(2)]
    with closing(LocalPolicy(loaded.model, loaded.tokenizer, name="tuned", max_new_tokens=4)) as policy:
        assert len(policy.act(dialogues)) == 2


@pytest.mark.usefixtures("without_bf16")
def test_pretraining_multiplies_in_fp32(tmp_path, products):
    make_tiny_base(TINY, 7, tmp_path / "base")
    assert products.seen > 100
    assert products.half == []


@pytest.mark.usefixtures("without_bf16")
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_tuning_its_validation_loss_and_evaluation_multiply_in_fp32(
    base, data_set, tmp_path, monkeypatch, products, dtype, method
):
    folder = saved_as(base, dtype, tmp_path / "base")
    products.seen, products.half = 0, []
    result = tune(job(folder, data_set, precision="auto", method=method), tmp_path / "out")
    assert result.validation_loss is not None
    assert products.seen > 1_000
    tuned = products.seen
    play_a_turn(tmp_path / "out", products, monkeypatch)
    play_a_turn(folder, products, monkeypatch)
    assert products.seen > tuned
    assert products.half == []


def test_where_bf16_is_fast_tuning_uses_it_and_the_optimizer_does_not(base, data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: True)
    step = CpuMuon.step

    def watched_step(optimizer, closure=None):
        with Products() as inside:
            loss = step(optimizer, closure)
        assert inside.seen > 0
        assert inside.half == []
        return loss

    monkeypatch.setattr(CpuMuon, "step", watched_step)
    with Products() as products:
        tune(job(base, data_set, precision="auto"), tmp_path / "out")
    assert {"mm", "_scaled_dot_product_flash_attention_for_cpu"} <= set(products.half)


@pytest.mark.usefixtures("without_bf16")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU tunes here")
def test_bf16_by_name_is_refused_where_it_would_be_emulated(base, data_set, tmp_path):
    with refused("bf16_unsupported", key="tuning.precision"):
        tune(job(base, data_set, precision="bf16"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


X86 = {"architecture": "x86_64", "avx2": True, "avx512_f": True}


@pytest.mark.parametrize(
    ("has", "kernels", "variables", "expected"),
    [
        ({**X86, "avx512_bf16": True}, "AVX512", {}, True),
        ({**X86, "amx_bf16": True}, "AVX512", {"ONEDNN_MAX_CPU_ISA": "all"}, True),
        ({**X86, "avx512_bf16": True}, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        (X86, "AVX512", {}, False),
        ({**X86, "avx512_bf16": True}, "AVX2", {}, False),
        ({**X86, "avx512_bf16": True}, "AVX512", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        ({**X86, "avx512_bf16": True}, "AVX512", {"DNNL_MAX_CPU_ISA": "AVX512_CORE"}, False),
        ({"architecture": "aarch64", "bf16": True}, "DEFAULT", {}, True),
        ({"architecture": "aarch64"}, "DEFAULT", {}, False),
    ],
)
def test_bf16_needs_instructions_that_the_libraries_may_use(monkeypatch, has, kernels, variables, expected):
    for name in hardware.ONEDNN_LIMITS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    assert multiplies_bf16() is expected


@pytest.mark.parametrize("shape", [(8, 8), (48, 8), (8, 48)])
def test_muon_takes_the_steps_of_torchs_in_fp32(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    a, b, c = 3.4445, -4.7750, 2.0315
    expected = matrix.double() / matrix.norm()
    for _ in range(5):
        gram = expected @ expected.T
        expected = a * expected + (b * gram + c * gram @ gram) @ expected
    torch.testing.assert_close(orthogonalized(matrix).double(), expected, atol=1e-4, rtol=0)
    weights = [torch.nn.Parameter(matrix.clone()) for _ in range(2)]
    optimizers = [
        kind([weight], lr=0.1, weight_decay=0.1)
        for kind, weight in zip((CpuMuon, torch.optim.Muon), weights, strict=True)
    ]
    for _ in range(3):
        gradient = torch.randn(shape)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(*weights, atol=0.02, rtol=0)

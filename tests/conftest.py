"""A home, a cache and a working folder for the suite alone; what rooms share: kernels, small models, rows."""

import importlib.util
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

USERS = (
    *(f"XDG_{kind}_HOME" for kind in ("CACHE", "CONFIG", "DATA", "STATE")),
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE"),
    *("MPLCONFIGDIR", "TORCH_HOME", "TRITON_CACHE_DIR"),
)
"""Environment variables that would lead past HOME to folders of the user."""
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
COMPILED = "kernels"
"""The folder of the cache that the next session may use again: libraries, and the digest of each beside it."""


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported, replace home and cache by folders of this session.

    Compiled kernels, which take long to make, are kept beside pytest's own notes from one session to the next.
    """
    folder, patch = Path(tempfile.mkdtemp(prefix="zoplat-tests-")).resolve(), pytest.MonkeyPatch()
    for name in ("home", "cache", "work"):
        (folder / name).mkdir()
    for name in USERS:
        patch.delenv(name, raising=False)
    patch.setenv("HOME", str(folder / "home"))
    patch.setenv("ZOPLAT_CACHE", str(folder / "cache"))
    patch.setattr(os, "fsync", lambda file: None)  # no power is cut, and each takes some milliseconds
    patch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", str(folder / "hypothesis"))
    if "OMP_NUM_THREADS" not in os.environ:  # threads that wait for each other keep cores busy that other workers need
        patch.setenv("OMP_NUM_THREADS", "1")
    notes = getattr(config, "cache", None)
    kept = Path(notes.mkdir("zoplat-kernels")) if notes else None
    if kept:
        copy_new(kept, folder / "cache" / COMPILED)

    def end() -> None:
        if kept:
            copy_new(folder / "cache" / COMPILED, kept)
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)

    config.stash[FOLDER] = folder
    config.add_cleanup(end)


FOLDER = pytest.StashKey[Path]()


def copy_new(source: Path, target: Path) -> None:
    """Copy compiled kernels that the target doesn't have, each whole or not at all."""
    target.mkdir(mode=0o700, exist_ok=True)
    for path in source.glob("kernels-*"):
        if path.is_file() and not (target / path.name).exists():
            beside = Path(tempfile.mkdtemp(dir=target)) / path.name
            shutil.copy2(path, beside)
            beside.replace(target / path.name)
            beside.parent.rmdir()


@pytest.fixture(scope="session", autouse=True)
def session_folder(pytestconfig: pytest.Config) -> Iterator[Path]:
    """A working folder for fixtures that several tests share."""
    before, folder = Path.cwd(), pytestconfig.stash[FOLDER]
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(autouse=True)
def working_folder(session_folder: Path) -> Iterator[Path]:
    """An empty working folder for each test."""
    folder = session_folder / "work"
    os.chdir(folder)
    yield folder
    os.chdir(session_folder)
    if any(os.scandir(folder)):
        shutil.rmtree(folder)
        folder.mkdir()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave all but bfloat16 in Triton's interpreter to the slow tests: it takes the same way and converts besides.

    So are all values of a test but the first there, those of a law apart: each has code of its own in a kernel.

    Tests on a GPU are left out where there is none, and those of Triton on arrays of numpy, which it does not take.
    """
    given = {item: getattr(getattr(item, "callspec", None), "params", {}) for item in items}
    items[:] = [
        item
        for item in items
        if not (given[item].get("kernels") in ("interpreter", "gpu") and given[item].get("runtime") == "numpy")
    ]
    begun = set()
    for item in items:
        if given[item].get("kernels") == "interpreter":
            test, words = item.nodeid.partition("[")[0], {v for v in given[item].values() if isinstance(v, str)}
            if {"float16", "float32"} & words or (test in begun and "law" not in given[item]):
                item.add_marker(pytest.mark.slow)
            else:
                begun.add(test)
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not has_gpu():
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=on_gpu)


def has_gpu() -> bool:
    """Whether PyTorch is installed and finds a GPU of NVIDIA."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


PLATFORMS = ["processor", "board", "interpreter", pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session", params=PLATFORMS)
def kernels(request: pytest.FixtureRequest) -> Any:
    """Each kind in turn: C compiled for this machine, C compiled for boards, Triton's interpreter, Triton on a GPU."""
    fixture = {"processor": "processor_kernels", "board": "board_kernels"}
    fixture |= {"interpreter": "interpreted_kernels", "gpu": "gpu_kernels"}
    return request.getfixturevalue(fixture[request.param])


@pytest.fixture(scope="session")
def processor_kernels() -> Any:
    """`kernels.c`, compiled for this machine."""
    from zoplat_devices.kernels import native

    found = native.kernels()
    if found is None:
        pytest.skip("no C compiler here: neither `ziglang` nor `cc`, or ZOPLAT_KERNELS=numpy")
    return found


@pytest.fixture(scope="session")
def board_kernels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`kernels.c`, compiled for boards of this machine's kind, as in a bundle."""
    from zoplat_devices.kernels import native

    folder = tmp_path_factory.mktemp("boards") / "kernels"
    native.build_for_boards(folder)
    path = native.built_for_this_machine(folder)
    if path is None:
        pytest.skip("nothing is built for machines like this one, or `ziglang` is missing")
    return native.NativeKernels(native.load_library(path))


@pytest.fixture(scope="session")
def gpu_kernels() -> Any:
    """`gpu_kernels.py` on a GPU."""
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("triton", minversion="3.6")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    from zoplat_devices.kernels.gpu import kernels

    return kernels("cuda")


@pytest.fixture(scope="session")
def interpreted_kernels() -> Iterator[Any]:
    """`gpu_kernels.py`, run by Triton's interpreter on arrays of the host.

    Its `fma` rounds twice and its bfloat16 not to even, so both are replaced; and integers wrap around, as in a launch.
    """
    pytest.importorskip("torch")
    pytest.importorskip("triton", minversion="3.6")
    triton_interpreter = pytest.importorskip("triton.runtime.interpreter")
    from zoplat_devices.kernels import gpu, noise

    def fused(self: Any, x: Any, y: Any, z: Any) -> Any:
        return triton_interpreter.TensorHandle(noise.fma(x.data, y.data, z.data), z.dtype.scalar)

    def converted(x: Any, source: Any, target: Any, mode: Any) -> Any:
        """As the instructions of a GPU do it: to nearest, ties to even; a NaN becomes 0x7FFF."""
        if (str(source), str(target)) == ("bf16", "fp32"):
            return (x.astype(np.uint32) << 16).view(np.float32)
        assert (str(source), str(target)) == ("fp32", "bf16"), "no other conversion is used"
        bits = x.view(np.uint32)
        nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return np.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FFF, nearest).astype(np.uint16)

    def called(self: Any, *given: Any, **named: Any) -> Any:
        """Call a function from a kernel, whose launch has replaced the language: each call would do so again."""
        return self.rewrite()(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_interpreter.InterpretedFunction, "__call__", called)
        patch.setattr(triton_interpreter.InterpreterBuilder, "create_fma", fused)
        patch.setattr(triton_interpreter, "_convert_float", converted)
        wraps = triton_interpreter.InterpreterOptions(sanitize_overflow=False)
        patch.setattr(triton_interpreter.interpreter_builder, "options", wraps)
        yield gpu.TritonKernels("cpu", _programs())


def _programs() -> ModuleType:
    """Copies of the modules whose functions are interpreted, which is decided when they are defined."""
    from zoplat_devices.kernels import gpu

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in ("gpu_noise", "gpu_weights", "gpu_factors", "gpu_kernels"):
            path = Path(gpu.__file__).with_name(f"{name}.py")
            whole = f"zoplat_devices.kernels.{name}"
            spec = importlib.util.spec_from_file_location(whole, path)
            assert spec
            assert spec.loader
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, whole, module)  # later ones import the copies of earlier ones
            spec.loader.exec_module(module)
    return module


GOOD, BAD = ("bright", "solid", "charming", "lovely"), ("noisy", "rude", "flimsy", "dull")
THINGS = ("kettle", "film", "chair", "soup")
FILLER = "I wrote this down on a day in May. "

Model = Callable[..., Path]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Writes a checkpoint: `kind` of its architecture, `change` for what is done to the model before it is saved."""
    pytest.importorskip("torch")

    def make(
        kind: str = "llama", change: Callable[[Any, Any], None] | None = None, seed: int = 0, **config: Any
    ) -> Path:
        import torch

        folder = tmp_path_factory.mktemp(kind)
        tokenizer = _letters()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _model(kind, len(tokenizer), config)
            for parameter in model.parameters():  # large enough that scores differ
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.2)
        if change:
            with torch.no_grad():
                change(model, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def rows() -> Callable[..., Path]:
    """Writes a folder of rows for the task sentiment; with `varied`, some are several times as long as others."""

    def write(folder: Path, varied: bool = False, seed: int = 0, **sizes: int) -> Path:
        folder.mkdir(exist_ok=True)
        draw = random.Random(seed)
        for split, size in ({"train": 16, "dev": 8, "test": 8} | sizes).items():
            lines = []
            for number in range(size):
                label = number % 2
                words = [draw.choice((BAD, GOOD)[label]) for _ in range(2)]
                start = FILLER * draw.choice((0, 0, 3)) if varied else ""
                sentence = (
                    f"{start}The {draw.choice(THINGS)} number {draw.randrange(10**5)} is {words[0]} and {words[1]}."
                )
                lines.append(json.dumps({"sentence": sentence, "label": label}))
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    return write


def _letters() -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def _model(kind: str, vocabulary: int, config: dict[str, Any]) -> Any:
    import transformers as t

    if kind == "rwkv":
        return t.RwkvForCausalLM(
            t.RwkvConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, context_length=512, **config)
        )
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2}
    made = t.LlamaConfig(vocab_size=vocabulary, pad_token_id=0, **{**sizes, **config})
    return (t.LlamaForSequenceClassification if kind == "classifier" else t.LlamaForCausalLM)(made)


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Installs a distribution of one module, which the catalogue finds through its entry points."""
    from zoplat.registry import catalogue

    def install(name: str, source: str, version: str = "1.0") -> Path:
        site, module = tmp_path / f"site-{name}", name.replace("-", "_")
        facts = site / f"{module}-{version}.dist-info"
        facts.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (facts / "entry_points.txt").write_text(f"[zoplat]\n{module} = {module}\n")
        monkeypatch.syspath_prepend(str(site))
        modules.append(module)
        catalogue.cache_clear()
        return site

    modules: list[str] = []
    yield install
    for module in modules:
        sys.modules.pop(module, None)
    catalogue.cache_clear()

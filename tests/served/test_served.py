"""Device served, with a stand-in for the server: losses of a local model, a toy that is learned, faults found out."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from zoplat import Example, Key, ModelSpec, ZoplatError
from zoplat.config.layers import resolve
from zoplat.core.errors import RunFailed
from zoplat.core.model_spec import Tuning
from zoplat.registry import catalogue
from zoplat.testing.devices import DeviceContract
from zoplat.training.callbacks import Callback
from zoplat.training.directory import RunDirectory
from zoplat.training.replay import replay
from zoplat.training.train import train
from zoplat_devices.pytorch.device import PyTorch
from zoplat_devices.served.client import KEY
from zoplat_devices.served.device import Served

from .conftest import StandIn

Settings = Callable[..., dict[str, Any]]
EXAMPLES = [
    Example("the red box is", (" off", " on"), 1),
    Example("the grey hat is", (" off .", " on", " the box is on"), 0),
    Example("the blue pen is the", (" box box", " map"), 1, score="sum"),
]
TOKENS = [Example(e.prompt, e.options, e.label, loss="tokens") for e in EXAMPLES]


def spec_of(toy: Path, name: str = "lora", **more: Any) -> ModelSpec:
    return ModelSpec(str(toy / "model"), Tuning(name), more.pop("dtype", "float32"), 3, **more)


def moved(session: Any, law: str = "gaussian") -> Any:
    """The session one step from its start, and a direction to probe."""
    own = catalogue().entry("sampler", law).value
    session.space.add(0.3 * session.space.draw(own, Key(5, 0, 0)))
    session.space.settle()
    return 0.1 * session.space.draw(own, Key(5, 1, 0))


@pytest.fixture
def pair(toy: Path, server: StandIn) -> tuple[Any, Any]:
    """The same model served and local."""
    return Served(url=server.url, rows=2, adapters=2).open(spec_of(toy)), PyTorch("cpu").open(spec_of(toy))


class TestOpened:
    @pytest.mark.parametrize("law", [pytest.param("gaussian", marks=pytest.mark.slow), "low-rank"])
    def test_losses_and_weights_are_those_of_the_local_device(self, pair: tuple[Any, Any], law: str) -> None:
        served, local = pair
        assert served.digest() == local.digest()
        assert [b.name for b in served.space.blocks] == [b.name for b in local.space.blocks]
        probes = moved(served, law), moved(local, law)
        assert served.digest() == local.digest()
        for examples in (EXAMPLES, TOKENS):
            rows = served.encode(examples), local.encode(examples)
            assert served.forward(rows[0]) == pytest.approx(float(local.forward(rows[1])), abs=1e-5)
            for one, other in zip(served.scores(rows[0]), local.scores(rows[1]), strict=True):
                assert one == pytest.approx(other, abs=1e-5)
            points = [[probe, -probe, 2 * probe] for probe in probes]
            found = served.losses_at(rows[0], points[0])
            assert found == pytest.approx([float(x) for x in local.losses_at(rows[1], points[1])], abs=1e-5)
            assert len(set(found)) == 3

    def test_texts_are_those_of_the_local_device(self, pair: tuple[Any, Any]) -> None:
        served, local = pair
        moved(served), moved(local)
        texts = [session.generate(session.encode(EXAMPLES), 5, "is") for session in pair]
        assert texts[0] == texts[1]
        assert len(set(texts[0])) > 1

    def test_a_long_row_loses_its_beginning_where_the_server_reads_less(self, pair: tuple[Any, Any]) -> None:
        """The stand-in reads 60 tokens, the model 64."""
        [row] = pair[0].encode([Example("the red box is " * 20, (" off", " on"), 1)])
        assert row.cut == 80 - 58
        assert pair[0].forward([row]) > 0

    def test_what_is_exported_is_an_adapter_of_peft(self, pair: tuple[Any, Any], toy: Path, tmp_path: Path) -> None:
        served = pair[0]
        moved(served)
        served.export(tmp_path / "peft")
        served.adapter.write(tmp_path / "ours", served.adapter.arrays)
        own, peft = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "peft"))
        assert own.keys() == peft.keys()
        assert all((own[name] == peft[name]).all() for name in own)
        plain = AutoModelForCausalLM.from_pretrained(toy / "model")
        assert PeftModel.from_pretrained(plain, tmp_path / "peft").active_peft_config.r == 8

    def test_its_facts_have_what_the_proof_measured(self, pair: tuple[Any, Any]) -> None:
        assert "served" not in pair[0].facts  # nothing was asked yet, as in a replay
        assert pair[0].server.model == "toy"
        found = pair[0].facts["served"]
        assert found["zero_off_by"] == found["noise"] == 0
        assert found["product_off_by"] < 1e-6
        assert found["least_effect"] > 1e-4


class TestRefused:
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("no-adapters", "ignores adapters"),
            ("stale", "ignores adapters"),
            ("no-values", "ignores the adapter of v_proj"),
            ("one-factor", "does not read both factors"),
            ("no-loading", "does not load the adapter in .* VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
            ("no-echo", "gave 0 log-probabilities for a text of"),
            ("missing", "gave None as log-probability of token 2"),
            ("begins", "so its answers are of other texts"),
            ("locked", f"status 401.*{KEY}"),
            ("other", "no OpenAI-compatible server"),
        ],
    )
    def test_a_server_that_is_wrong_is_found_out_at_opening(
        self, toy: Path, server: StandIn, fault: str, words: str
    ) -> None:
        session = Served(url=f"{server.url}/{fault}", patience=0).open(spec_of(toy))
        with pytest.raises(ZoplatError, match=words):
            session.encode(EXAMPLES)

    def test_a_server_that_is_not_there_is_waited_for_and_given_up(self, toy: Path) -> None:
        session = Served(url="http://127.0.0.1:9", patience=0.3).open(spec_of(toy))
        with pytest.raises(RunFailed, match=r"has not answered /v1/models for 0\.3 s .*device\.patience"):
            session.encode(EXAMPLES)

    def test_a_name_that_the_server_does_not_have(self, toy: Path, server: StandIn) -> None:
        with pytest.raises(ZoplatError, match="has no model 'opt'; it has toy"):
            Served(url=server.url, model_there="opt").open(spec_of(toy)).encode(EXAMPLES)

    def test_rows_are_not_sent_to_another_machine_unasked(self, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for url in ("http://gpu.example.org:8000", "http://10.0.0.7:8000"):
            with pytest.raises(ZoplatError, match="ZOPLAT_ALLOW=servers"):
                Served(url=url).open(spec_of(toy)).encode(EXAMPLES)
        with pytest.raises(ZoplatError, match=r"device\.url must be like"):
            Served(url="localhost:8000").open(spec_of(toy)).encode(EXAMPLES)
        monkeypatch.setenv("ZOPLAT_ALLOW", "servers")
        Served(url="http://gpu.example.org:8000").check_url()

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"name": "full"}, "Use --tune lora"),
            ({"dtype": "bfloat16"}, "keeps adapters in float32"),
            ({"base": "int8"}, "frozen weights are the server's"),
            ({"head": "classifier", "classes": 2}, "asks for log-probabilities of next tokens"),
        ],
    )
    def test_what_it_can_not_train(self, toy: Path, spec: dict[str, Any], words: str) -> None:
        with pytest.raises(ZoplatError, match=words):
            Served().open(spec_of(toy, **spec))


class TestRuns:
    def test_a_server_that_is_busy_at_times_changes_nothing(self, settings: Settings, server: StandIn) -> None:
        short = {"steps": 2, "queries": 1}
        plain = train(resolve(settings(**short)), Path("plain")).summary
        busy = train(resolve(settings(f"{server.url}/busy", **short)), Path("busy")).summary
        assert busy.weights_digest == plain.weights_digest

    @pytest.mark.parametrize("strategy", ["auto", "sequential"])
    def test_a_low_rank_method_is_given_the_losses_of_a_local_run(self, settings: Settings, strategy: str) -> None:
        short = {"steps": 3, "queries": 1, "estimator": "lozo", "options": {"device.strategy": strategy}}
        served = train(resolve(settings(**short)), Path("served"))
        own = {
            "device": "cpu",
            "dtype": "float32",
            "options": {"tune.targets": "q_proj|v_proj|o_proj|up_proj|down_proj"},
        }
        local = {name: value for name, value in settings(**short).items() if name not in ("device", "options")}
        train(resolve({**local, **own}), Path("local"))
        lines = [Path(name, "journal.jsonl").read_text().splitlines()[1:] for name in ("served", "local")]
        for one, other in zip(*lines, strict=True):
            assert json.loads(one)["answers"] == pytest.approx(json.loads(other)["answers"], abs=1e-4)
        again = replay(RunDirectory.existing(Path("served")), None)
        assert again["weights_digest"] == served.summary.weights_digest

    @pytest.mark.slow
    def test_losses_that_are_no_numbers_skip_steps_as_anywhere(self, settings: Settings, server: StandIn) -> None:
        with pytest.raises(RunFailed, match="steps in a row"):
            train(resolve(settings(f"{server.url}/nan")), Path("run"))

    @pytest.mark.slow
    def test_it_learns_a_toy_and_a_killed_server_changes_no_bit(
        self, toy: Path, settings: Settings, server: StandIn, tmp_path: Path
    ) -> None:
        whole = train(resolve(settings()), tmp_path / "whole")
        assert whole.summary.test_before < 0.8
        assert whole.summary.dev_after == whole.summary.test_after == 1.0
        killed = StandIn(toy / "model")
        done = train(resolve(settings(killed.url)), tmp_path / "killed", callback=Kills(killed, {20, 21, 60}))
        killed.kill()
        assert done.summary.weights_digest == whole.summary.weights_digest
        lines = [(tmp_path / name / "journal.jsonl").read_text().splitlines()[1:] for name in ("whole", "killed")]
        assert [json.loads(line)["answers"] for line in lines[0]] == [json.loads(line)["answers"] for line in lines[1]]

        again = replay(RunDirectory.existing(tmp_path / "killed"), tmp_path / "adapter")  # the server is gone
        assert again["weights_digest"] == whole.summary.weights_digest
        assert (tmp_path / "adapter" / "adapter_config.json").exists()
        local = replay(RunDirectory.existing(tmp_path / "killed"), None, device="cpu")
        assert local["weights_digest"] == whole.summary.weights_digest

    @pytest.mark.slow
    def test_a_run_whose_server_stays_away_goes_on_when_it_is_back(
        self, toy: Path, settings: Settings, server: StandIn, tmp_path: Path
    ) -> None:
        whole = train(resolve(settings(steps=12)), tmp_path / "whole").summary
        away = StandIn(toy / "model")
        options = {"device.patience": "0.5"}
        config = resolve(settings(away.url, steps=12, options=options))
        with pytest.raises(RunFailed, match="go on with --resume"):
            train(config, tmp_path / "run", callback=Kills(away, {5}, starts=False))
        away.start()
        done = train(config, tmp_path / "run", resume=True).summary
        away.kill()
        assert done.weights_digest == whole.weights_digest
        assert done.steps == 12

    @pytest.mark.slow
    def test_a_server_that_comes_back_with_another_model_is_found_out(
        self, toy: Path, settings: Settings, small_model: Callable[..., Path], tmp_path: Path
    ) -> None:
        changing = StandIn(toy / "model")
        changing.other = small_model(seed=7)
        try:
            with pytest.raises(RunFailed, match="come back as another model"):
                train(resolve(settings(changing.url, steps=12)), tmp_path / "run", callback=Kills(changing, {3}))
        finally:
            changing.kill()


@pytest.mark.slow
class TestContract(DeviceContract):
    """All that every device promises, with LoRA in the place of all weights."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _served(cls, small_model: Callable[..., Path]) -> Iterator[None]:
        cls.model = str(small_model())
        own = StandIn(Path(cls.model))
        cls.device = Served(url=own.url)
        yield
        own.kill()

    def _spec(self) -> ModelSpec:
        return ModelSpec(self.model, Tuning("lora"), "auto", 0)

    def test_what_it_can_not_do_is_refused(self) -> None:
        """The rest is in `TestRefused`: with a tuning that is no adapter nothing can be opened."""
        with pytest.raises(ZoplatError, match="no-such-folder"):
            self.device.open(ModelSpec("/no-such-folder/model", Tuning("lora"), "auto", 0))


class Kills(Callback):
    """Kills a server after some steps, while the next one asks it, and starts it again."""

    def __init__(self, server: StandIn, steps: set[int], starts: bool = True) -> None:
        self.server, self.steps, self.starts = server, steps, starts

    def stepped(self, progress: Any, loss: float | None) -> None:
        if progress.step in self.steps:
            threading.Timer(0.05, self._kill).start()

    def _kill(self) -> None:
        self.server.kill()
        if self.starts:
            self.server.start(wait=False)

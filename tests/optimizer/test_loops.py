"""`zoplat.torch.ZerothOrder` in loops of other libraries; each test is skipped where its library is not installed."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from zoplat import ZoplatError
from zoplat.torch import LightningForwardOnly, TrainerForwardOnly, ZerothOrder

ROWS = 32


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, 4, generator=generator)
    return x, (x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])).squeeze(1)


def linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 1)


def loss_of(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(model(x).squeeze(1), y)


def plain_loop(steps: int, **settings: Any) -> torch.nn.Linear:
    """The loop that the others are held against: the same batches in the same order."""
    model, (x, y) = linear(), data()
    optimizer = ZerothOrder(model, **settings)
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, ROWS, 8)]
    for step in range(steps):
        xs, ys = batches[step % len(batches)]
        optimizer.step(lambda xs=xs, ys=ys: loss_of(model, xs, ys))
    return model


MEZO = {"estimator": "mezo", "lr": 0.02, "eps": 1e-3, "seed": 7}


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_accelerate_gives_the_weights_of_a_plain_loop(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, (x, y) = linear(), data()
    accelerator = accelerate.Accelerator(cpu=True)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    optimizer = ZerothOrder(model, **MEZO)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 1)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    for _ in range(3):
        for xs, ys in loader:
            optimizer.step(lambda xs=xs, ys=ys: loss_of(model, xs, ys))
            scheduler.step()
    accelerator.save_state(str(tmp_path))
    accelerator.load_state(str(tmp_path))
    assert same_weights(accelerator.unwrap_model(model), plain_loop(12, **MEZO))
    assert optimizer.optimizer.progress.step == 12


@pytest.mark.slow
def test_lightning_gives_the_weights_of_a_plain_loop(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    graphs: list[bool] = []

    class Module(LightningForwardOnly, lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = linear()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = loss_of(self.model, *batch)
            graphs.append(loss.requires_grad)
            return loss

        def configure_optimizers(self) -> Any:
            return ZerothOrder(self.model, **MEZO)

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, DataLoader(TensorDataset(*data()), batch_size=8))
    assert same_weights(module.model, plain_loop(12, **MEZO))
    assert graphs == [False] * 24  # Lightning switches gradients on inside of the closure
    saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)
    assert saved["optimizer_states"][0]["zoplat"]["step"] == 12


@pytest.mark.slow
def test_lightning_without_the_mixin_says_what_to_do(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = linear()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return loss_of(self.model, *batch)

        def configure_optimizers(self) -> Any:
            return ZerothOrder(self.model, **MEZO)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
    )
    with pytest.raises(ZoplatError, match="LightningForwardOnly"):
        trainer.fit(Module(), DataLoader(TensorDataset(*data()), batch_size=8))


class Regression(torch.nn.Module):
    """A model in the form that Trainer takes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = linear()
        self.calls = 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"loss": loss_of(self.model, x, labels)}


def trainer_on(folder: Path, model: torch.nn.Module, optimizer: Any, **arguments: Any) -> Any:
    transformers = pytest.importorskip("transformers")

    class ForwardOnlyTrainer(TrainerForwardOnly, transformers.Trainer):  # type: ignore[misc]
        pass

    arguments = {"max_steps": 12, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant", **arguments}
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        logging_steps=1,
        **arguments,
    )
    x, y = data()
    rows = [{"x": x[i], "labels": y[i]} for i in range(ROWS)]
    return ForwardOnlyTrainer(model, args, train_dataset=rows, optimizers=(optimizer, None))


@pytest.mark.slow
def test_trainer_gives_the_weights_of_a_plain_loop(tmp_path: Path) -> None:
    model = Regression()
    trainer = trainer_on(tmp_path, model, ZerothOrder(model.model, **MEZO), save_strategy="no")
    trainer.train()
    assert same_weights(model.model, plain_loop(12, **MEZO))
    assert model.calls == 24
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 12
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)


def test_trainer_resumes_from_a_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    whole = Regression()
    trainer_on(tmp_path / "whole", whole, ZerothOrder(whole.model, "zo-adam", lr=0.05), save_steps=5).train()
    other = Regression()
    trainer = trainer_on(tmp_path / "whole", other, ZerothOrder(other.model, "zo-adam", lr=0.05), save_steps=5)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert same_weights(whole, other)
    assert not same_weights(whole, Regression())


@pytest.mark.slow
def test_trainer_accumulates_batches_into_one_step(tmp_path: Path) -> None:
    model = Regression()
    arguments = {"save_strategy": "no", "gradient_accumulation_steps": 4, "max_steps": 3}
    trainer_on(tmp_path, model, ZerothOrder(model.model, **MEZO), **arguments).train()
    expected, (x, y) = linear(), data()
    optimizer = ZerothOrder(expected, **MEZO)
    for _ in range(3):
        optimizer.step(lambda: sum(loss_of(expected, x[i : i + 8], y[i : i + 8]) for i in range(0, ROWS, 8)) / 4)
    assert model.calls == 24
    for one, other in zip(model.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_mixin_refuses_other_optimizers(tmp_path: Path) -> None:
    model = Regression()
    trainer = trainer_on(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1), save_strategy="no")
    with pytest.raises(ZoplatError, match="has SGD"):
        trainer.train()


@pytest.mark.slow
def test_sft_trainer_trains_an_adapter(tmp_path: Path, small_model: Any) -> None:
    trl, peft, transformers, datasets = map(pytest.importorskip, ("trl", "peft", "transformers", "datasets"))

    class ForwardOnlySFTTrainer(TrainerForwardOnly, trl.SFTTrainer):  # type: ignore[misc]
        pass

    folder = small_model()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = ForwardOnlySFTTrainer(
        model,
        trl.SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            max_steps=30,
            per_device_train_batch_size=4,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_steps=30,
            train_sampling_strategy="sequential",
        ),
        train_dataset=datasets.Dataset.from_list([{"text": "the film was good, and good, and good"}] * 4),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
        peft_config=peft.LoraConfig(r=2, task_type="CAUSAL_LM"),
        optimizer_cls_and_kwargs=(ZerothOrder, {"estimator": "mezo", "lr": 0.02, "eps": 1e-2, "seed": 1}),
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
    optimizer = trainer.optimizer.optimizer
    assert (optimizer.progress.step, optimizer.progress.passes) == (30, 60)
    left = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): t
        for name, t in trainer.model.state_dict().items()
    }
    assert all(torch.equal(left[name], tensor) for name, tensor in frozen.items())
    state = torch.load(tmp_path / "checkpoint-30" / "optimizer.pt", weights_only=True)
    assert state["zoplat"]["step"] == 30

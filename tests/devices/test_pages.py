"""Trainable weights are copied to large pages with their values and their sharing."""

import mmap

import pytest

torch = pytest.importorskip("torch")

from zoplat_devices.pytorch import pages  # noqa: E402

needs_pages = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no large pages")


def model() -> "torch.nn.Module":
    """Three layers, the last of which shares its weights through a parameter of its own."""
    made = torch.nn.Sequential(torch.nn.Linear(512, 700), torch.nn.Linear(700, 512), torch.nn.Linear(512, 700, False))
    made[2].weight = torch.nn.Parameter(made[0].weight.detach())
    made[1].bias.requires_grad_(False)
    return made


@needs_pages
def test_weights_keep_their_values_and_their_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LEAST", 0)
    moved = model()
    before = [parameter.detach().clone() for parameter in moved.parameters()]
    places = [parameter.data_ptr() for parameter in moved.parameters()]
    pages.onto_large_pages(moved)
    for parameter, numbers in zip(moved.parameters(), before, strict=True):
        assert torch.equal(parameter, numbers)
    after = [parameter.data_ptr() for parameter in moved.parameters()]
    assert moved[2].weight.data_ptr() == moved[0].weight.data_ptr() == after[0]
    assert after[0] % pages.LARGE == 0
    assert [a == b for a, b in zip(places, after, strict=True)] == [False, False, False, True, False]


@needs_pages
def test_neighbours_in_one_storage_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LEAST", 0)
    storage = torch.arange(3 * 5000, dtype=torch.float32)
    made = torch.nn.Linear(100, 50)
    made.weight = torch.nn.Parameter(storage[5000:10000].view(50, 100))
    pages.onto_large_pages(made)
    assert torch.equal(made.weight.reshape(-1), torch.arange(5000.0, 10000.0))
    assert torch.equal(storage[:5000], torch.arange(5000.0))
    assert torch.equal(storage[10000:], torch.arange(10000.0, 15000.0))


def test_a_small_model_is_not_moved() -> None:
    small = model()
    places = [parameter.data_ptr() for parameter in small.parameters()]
    pages.onto_large_pages(small)
    assert [parameter.data_ptr() for parameter in small.parameters()] == places

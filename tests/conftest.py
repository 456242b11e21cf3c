import pytest
import torch

from sicore.models import gpt2

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(20230505)


@pytest.fixture
def tiny_gpt2():
    """Builds small GPT-2 models."""

    def build(seed=0, *, n_layer=1, vocab=13, n_embd=16, n_head=2, **sizes):
        return gpt2(vocab=vocab, n_layer=n_layer, n_embd=n_embd, n_head=n_head, seed=seed, **sizes)

    return build

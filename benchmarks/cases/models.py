"""The models of the problems: chains of torch's modules, and modules of one's own, as people write them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name


def perceptron(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Linear layers of these widths, with the activation between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Module:
    """Three convolutions and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(2048, 10)),
    )


class Perceptron(nn.Module):
    """The chain `perceptron` as a module of one's own."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, inputs: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            inputs = F.relu(layer(inputs))
        return last(inputs)


class Convolutional(nn.Module):
    """The chain `convolutional` as a module of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.third, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(2048, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        for convolution in (self.first, self.second):
            inputs = F.max_pool2d(F.relu(convolution(inputs)), 2)
        return self.head(F.relu(self.third(inputs)).flatten(1))


class Transformer(nn.Module):
    """One transformer block, the mean over the positions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(256, 4, dim_feedforward=1024, dropout=0.0, batch_first=True)
        self.head = nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.block(inputs).mean(1))


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm, and a sum that goes around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.second, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.first(inputs)))
        return F.relu(inputs + self.norm2(self.second(hidden)))


class Residual(nn.Module):
    """A residual network of three blocks, whose batch norms have seen data: their statistics are not 0 and 1."""

    def __init__(self, width: int = 8, blocks: int = 3) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 10)
        for name, statistic in self.named_buffers():
            if name.endswith("running_mean"):
                statistic.normal_(0, 0.1)
            elif name.endswith("running_var"):
                statistic.uniform_(0.5, 1.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.norm(self.stem(inputs)))).mean((2, 3)))


class GPTBlock(nn.Module):
    """Causal attention and a perceptron, each after a layer norm, and sums that go around them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + self.mixed(self._attended(self.norm1(inputs)))
        return inputs + self.down(F.gelu(self.up(self.norm2(inputs))))

    def _attended(self, inputs: Tensor) -> Tensor:
        parts = self.queries_keys_values(inputs).chunk(3, dim=2)
        of_heads = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts]
        return F.scaled_dot_product_attention(*of_heads, is_causal=True).transpose(1, 2).flatten(2)


class GPT(nn.Module):
    """A small GPT. Its output `(n, vocabulary, T)` is what cross entropy takes."""

    def __init__(self, vocabulary: int, width: int = 64, heads: int = 4, length: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(GPTBlock(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden)).transpose(1, 2)


class GPT2(nn.Module):
    """The GPT-2 of the package transformers, as small as `GPT`, with random weights."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)  # numbers below the vocabulary
        config: Any = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=64, n_layer=2, n_head=4, **special)
        config.use_cache = False
        self.model = GPT2LMHeadModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).logits.transpose(1, 2)

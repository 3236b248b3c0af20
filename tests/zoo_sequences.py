"""Models of texts and series, as people write them."""

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.zoo_rows import Built, Row


def next_tokens(logits, labels):
    """The sum over the tokens of a text."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


class Norm(nn.Module):
    """Layer norm with an optional bias, as in nanoGPT."""

    def __init__(self, dim, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class CausalAttention(nn.Module):
    def __init__(self, dim, heads, length):
        super().__init__()
        self.c_attn, self.c_proj, self.heads = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False), heads
        self.attn_dropout = nn.Dropout(0.1)
        self.register_buffer("bias", torch.tril(torch.ones(length, length)).view(1, 1, length, length))

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = (part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in self.c_attn(x).split(c, dim=2))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = self.attn_dropout(F.softmax(att, dim=-1)) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


class NanoGPT(nn.Module):
    """A causal language model whose output layer shares its weight with the embedding."""

    def __init__(self, vocabulary=5, dim=2, length=4):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(vocabulary, dim),
            "wpe": nn.Embedding(length, dim),
            "ln_1": Norm(dim, bias=False),
            "attn": CausalAttention(dim, 2, length),
            "ln_2": Norm(dim, bias=False),
            "mlp": nn.Sequential(nn.Linear(dim, 4, bias=False), nn.GELU(), nn.Linear(4, dim, bias=False), nn.Dropout(0.1)),
            "ln_f": Norm(dim, bias=True),
        })
        self.lm_head = nn.Linear(dim, vocabulary, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx):
        t = self.transformer
        x = t.wte(idx) + t.wpe(torch.arange(idx.shape[1], device=idx.device))
        x = x + t.attn(t.ln_1(x))
        x = x + t.mlp(t.ln_2(x))
        return self.lm_head(t.ln_f(x))


def texts(model, vocabulary=5, length=4):
    tokens = torch.randint(vocabulary, (3, length + 1))
    return Built(model.eval(), (tokens[:, :-1], tokens[:, 1:]), next_tokens)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate_half(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class GroupedAttention(nn.Module):
    """Rotary embeddings, and fewer heads of keys than of queries."""

    def __init__(self, dim, heads, groups):
        super().__init__()
        self.heads, self.groups, self.head = heads, groups, dim // heads
        self.q_proj, self.k_proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, groups * self.head, bias=False)
        self.v_proj, self.o_proj = nn.Linear(dim, groups * self.head, bias=False), nn.Linear(dim, dim, bias=False)
        self.register_buffer("inv_freq", 1.0 / (10.0 ** (torch.arange(0, self.head, 2) / self.head)), persistent=False)

    def forward(self, x):
        b, t, _ = x.shape
        angles = torch.outer(torch.arange(t, dtype=x.dtype), self.inv_freq)
        cos, sin = (f(torch.cat((angles, angles), dim=-1)) for f in (torch.cos, torch.sin))
        q = self.q_proj(x).view(b, t, self.heads, self.head).transpose(1, 2)
        k, v = (p(x).view(b, t, self.groups, self.head).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        q, k = (one * cos + rotate_half(one) * sin for one in (q, k))
        k, v = (one.repeat_interleave(self.heads // self.groups, dim=1) for one in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class Llama(nn.Module):
    def __init__(self, vocabulary=5, dim=4):
        super().__init__()
        self.embed, self.norm1, self.norm2, self.norm = nn.Embedding(vocabulary, dim), RMSNorm(dim), RMSNorm(dim), RMSNorm(dim)
        self.attention = GroupedAttention(dim, 2, 1)
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((dim, 3), (dim, 3), (3, dim)))
        self.head = nn.Linear(dim, vocabulary, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norm(x))


class LoRALinear(nn.Linear):
    """A frozen linear layer with a trained difference of low rank."""

    def __init__(self, inside, outside, rank, alpha=2.0):
        super().__init__(inside, outside)
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)
        self.lora_a, self.lora_b = nn.Parameter(torch.randn(rank, inside)), nn.Parameter(torch.zeros(outside, rank))
        self.scaling, self.lora_dropout = alpha / rank, nn.Dropout(0.05)

    def forward(self, x):
        return super().forward(x) + self.lora_dropout(x) @ self.lora_a.T @ self.lora_b.T * self.scaling


class Classifier(nn.Module):
    """A recurrent network and a linear layer on its last state."""

    def __init__(self, recurrent, width):
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(width, 3)

    def forward(self, x):
        self.recurrent.flatten_parameters()
        outputs, _ = self.recurrent(x)
        return self.head(outputs[:, -1])


class LastState(nn.Module):
    """The same on the final hidden state of both directions."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(4, 2), nn.LSTM(2, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        _, (hidden, _) = self.lstm(self.embedding(tokens))
        return self.head(torch.cat((hidden[-2], hidden[-1]), dim=1))


class Packed(nn.Module):
    """Sequences of several lengths, packed."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(2, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.head(outputs.sum(1))


def series(recurrent, width):
    model = Classifier(recurrent, width)
    return Built(model.eval(), (torch.randn(3, 3, 2), torch.randint(3, (3,))), nn.CrossEntropyLoss())


class SequenceFirst(nn.Module):
    """Positions along axis 0, samples along axis 1."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(2, 2, 3)
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.encoder(x))


def sequence_first(model):
    return Built(model.eval(), (torch.randn(4, 3, 2), torch.randn(4, 3, 2)), nn.MSELoss(), batch_dim=1)


class SequenceFirstGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0])


class BagOfWords(nn.Module):
    def __init__(self, bag):
        super().__init__()
        self.bag, self.head = bag, nn.Linear(3, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.bag(tokens)))


class MeanEmbedding(nn.Embedding):
    def forward(self, tokens):
        return super().forward(tokens).mean(1)


def bag_of_words():
    tokens, labels = torch.randint(5, (3, 4)), torch.randint(3, (3,))
    model, plain = BagOfWords(nn.EmbeddingBag(5, 3)), BagOfWords(MeanEmbedding(5, 3))
    return Built(model, (tokens, labels), nn.CrossEntropyLoss(), plain=plain)


class Masked(nn.Module):
    """An encoder of torch with a mask of the padding, and a mean over what is not padding."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(2, 1, 3, batch_first=True, norm_first=True, activation="gelu")
        self.embedding, self.encoder = nn.Embedding(5, 2), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(2, 3)

    def forward(self, tokens, padding):
        x = self.encoder(self.embedding(tokens), src_key_padding_mask=padding)
        keep = ~padding.unsqueeze(-1)
        return self.head((x * keep).sum(1) / keep.sum(1))


def masked():
    padding = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]).bool()
    inputs = {"tokens": torch.randint(5, (3, 4)), "padding": padding}
    return Built(Masked().eval(), (inputs, torch.randint(3, (3,))), nn.CrossEntropyLoss())


class Translation(nn.Module):
    """torch's transformer, from one sequence to another."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(2, 2, 1, 1, 2, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, src, tgt):
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1], dtype=tgt.dtype)
        return self.head(self.transformer(src, tgt, tgt_mask=mask, tgt_is_causal=True))


def translation():
    inputs = torch.randn(3, 3, 2), torch.randn(3, 2, 2)
    return Built(Translation().eval(), (inputs, torch.randint(3, (3, 2))), next_tokens)


class TemporalConvolution(nn.Module):
    """Causal dilated convolutions with a gate, as in WaveNet."""

    def __init__(self):
        super().__init__()
        self.filter, self.gate = nn.Conv1d(2, 2, 2, dilation=2), nn.Conv1d(2, 2, 2, dilation=2)
        self.skip, self.head = nn.Conv1d(2, 2, 1), nn.Linear(2, 3)

    def forward(self, x):
        padded = F.pad(x, (2, 0))
        x = x + self.skip(torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded)))
        return self.head(x.amax(-1))


class StateSpace(nn.Module):
    """A diagonal linear recurrence with a loop over time."""

    def __init__(self, width=3):
        super().__init__()
        self.log_decay, self.b, self.c = nn.Parameter(torch.randn(width)), nn.Linear(2, width), nn.Linear(width, 3)
        self.register_buffer("start", torch.zeros(width))

    def forward(self, x):
        state = self.start.expand(x.shape[0], -1)
        for t in range(x.shape[1]):
            state = torch.exp(-F.softplus(self.log_decay)) * state + self.b(x[:, t])
        return self.c(F.silu(state))


def labelled(model, *shape):
    return Built(model, (torch.randn(3, *shape), torch.randint(3, (3,))), nn.CrossEntropyLoss())


SEQUENCES = {
    "nano gpt": Row(lambda: texts(NanoGPT())),
    "llama": Row(lambda: texts(Llama())),
    "lora": Row(lambda: labelled(nn.Sequential(LoRALinear(4, 3, 2), nn.Tanh(), LoRALinear(3, 3, 1)).eval(), 4)),
    "lstm, two layers, both directions": Row(
        lambda: series(nn.LSTM(2, 2, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1), 4)
    ),
    "lstm with projections": Row(lambda: series(nn.LSTM(2, 3, proj_size=2, batch_first=True), 2)),
    "last state of an lstm": Row(
        lambda: Built(LastState(), (torch.randint(4, (3, 3)), torch.randint(3, (3,))), nn.CrossEntropyLoss())
    ),
    "gru, two layers": Row(lambda: series(nn.GRU(2, 2, num_layers=2, batch_first=True), 2)),
    "rnn, both directions, no bias": Row(lambda: series(nn.RNN(2, 3, bidirectional=True, bias=False, batch_first=True), 6)),
    "packed gru": Row(
        lambda: Built(
            Packed(), ((torch.randn(3, 4, 2), torch.tensor([4, 2, 3])), torch.randint(3, (3,))), nn.CrossEntropyLoss()
        )
    ),
    "sequence first": Row(lambda: sequence_first(SequenceFirst())),
    "sequence first gru": Row(lambda: sequence_first(SequenceFirstGRU())),
    "bag of words": Row(bag_of_words),
    "masked encoder": Row(masked),
    "torch's transformer": Row(translation),
    "temporal convolution": Row(lambda: labelled(TemporalConvolution(), 2, 4)),
    "state space": Row(lambda: labelled(StateSpace(), 4, 2)),
}

"""Models of the package transformers, from tiny configurations: nothing is downloaded, and nothing imported before a row."""

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812  # its usual name

from tests.zoo_losses import OF_OUTPUTS
from tests.zoo_rows import EVERY_LAW, Built, Row

SMALL = {"vocab_size": 7, "use_cache": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
GPT = {**SMALL, "n_positions": 4, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 4}
DECODER = {
    **SMALL,
    "hidden_size": 8,
    "intermediate_size": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8,
}
BERT = {**DECODER, "type_vocab_size": 2, "num_labels": 3}
T5 = {**SMALL, "d_model": 8, "d_kv": 4, "d_ff": 4, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 2}


class Output:
    """What a criterion reads of an output of transformers."""

    def __init__(self, logits):
        self.logits = logits


def next_tokens(output, labels):
    """The sum over the tokens of a text that are not padding; the logits are those of the token before."""
    return F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def of_tokens(output, labels):
    return F.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="sum")


def of_text(output, label):
    return F.cross_entropy(output.logits, label)


def model_of(name, options, implementation):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, name[: name.index("For") if "For" in name else -len("LMHeadModel")] + "Config")
    dropout = {key: 0.0 for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout_rate") if hasattr(config(), key)}
    model = getattr(transformers, name)(config(**options, **dropout, attn_implementation=implementation))
    return model.to(torch.float64).eval()


def padded(side="right"):
    """Texts of unequal lengths: tokens, a mask, and labels with −100 for padding.

    Eager attention has no right derivative for padding on the left: a position that sees nothing adds its scores to the
    smallest number there is, which drops them, and autograd does not know.
    """
    tokens, mask = torch.randint(3, 7, (3, 4)), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    mask = mask.flip(1) if side == "left" else mask
    tokens = torch.where(mask.bool(), tokens, 2)
    return tokens, mask, torch.where(mask.bool(), tokens, -100)


def of_outputs(model, batch, criterion, restrict_to=None):
    return Built(model, batch, criterion, pick=lambda output: output.logits, wrap=Output, restrict_to=restrict_to)


def decoder(name, options, implementation, restrict_to=None, side="right"):
    """A causal language model; its inputs are a dict, and its output an object with `logits`."""

    def build():
        tokens, mask, labels = padded(side)
        batch = {"input_ids": tokens, "attention_mask": mask}, labels
        return of_outputs(model_of(name, options, implementation), batch, next_tokens, restrict_to)

    return build


def bert(implementation):
    def build():
        tokens, mask, _ = padded()
        inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": (tokens > 5).long()}
        batch = inputs, torch.randint(3, (3,))
        picked = ["*token_type*", "*.0.attention.self.query.*", "*LayerNorm.weight", "*.1.output.dense.*", "classifier.*"]
        return of_outputs(model_of("BertForSequenceClassification", BERT, implementation), batch, of_text, picked)

    return build


def t5(implementation):
    def build():
        tokens, mask, labels = padded()
        inputs = {"input_ids": tokens.flip(1), "attention_mask": mask.flip(1), "decoder_input_ids": tokens}
        picked = ["*decoder*.1.EncDecAttention.q.weight", "*relative_attention_bias.weight", "*encoder.block.0*layer_norm*"]
        return of_outputs(model_of("T5ForConditionalGeneration", T5, implementation), (inputs, labels), of_tokens, picked)

    return build


def batch_encoding(tensors):
    """The dict that a tokenizer makes."""
    return pytest.importorskip("transformers").BatchEncoding(tensors)


def encoded():
    built = decoder("GPT2LMHeadModel", {**GPT, "n_layer": 1}, "sdpa", ["*.ln_1.*", "*.attn.c_attn.bias", "*.mlp.c_fc.*"])()
    return built._replace(batch=(batch_encoding(built.batch[0]), built.batch[1]))


def own_loss():
    """A mean over the tokens of each text, of a batch that holds its labels."""
    model = model_of("Qwen2ForCausalLM", DECODER, "sdpa")
    tokens, mask, labels = padded("left")

    def means(logits, labels):
        losses = F.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none")
        return losses.sum(1) / (labels[:, 1:] != -100).sum(1)

    def loss(params, buffers, batch):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        return means(functional_call(model, (params, buffers), (), inputs).logits, batch["labels"])

    def values(model, batch):
        return means(model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, batch["labels"])

    batch = batch_encoding({"input_ids": tokens, "attention_mask": mask, "labels": labels})
    return Built(model, batch, loss=loss, values=values, restrict_to=["*.0.self_attn.k_proj.*", "*norm.weight"])


def loss_of_the_model():
    """The loss that the model itself computes: one number, the mean over all tokens of the batch."""
    model = model_of("GPT2LMHeadModel", GPT, "sdpa")
    tokens, mask, labels = padded()

    def loss(params, buffers, batch):
        return functional_call(model, (params, buffers), (), batch).loss

    batch = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    picked = ["*.ln_f.*", "*.0.attn.c_attn.bias", "*.wpe.*"]
    return Built(model, batch, loss=loss, values=lambda model, batch: model(**batch).loss, restrict_to=picked)


def forward_of_logits():
    """The line that hands over the logits alone."""
    model = model_of("GPT2LMHeadModel", GPT, "eager")
    tokens, mask, labels = padded()

    def forward(params, buffers, inputs):
        return functional_call(model, (params, buffers), (), inputs).logits

    batch = {"input_ids": tokens, "attention_mask": mask}, labels
    built = of_outputs(
        model, batch, lambda logits, labels: next_tokens(Output(logits), labels), ["*.1.ln_2.*", "*.0.attn.c_proj.*"]
    )
    return built._replace(forward=forward, wrap=lambda logits: logits)


PICKED = ["*norm.weight", "*.0.self_attn.q_proj.*", "*.1.mlp.down_proj.weight"]
OUTPUT = {"monte_carlo_fisher": "model must return one tensor"}
OF_SAMPLES = ("gauss_newton", "inverse_harmonic_mean")
FORMS = tuple(f"forms {name}" for name in OF_SAMPLES)
# A loss that is one number has no samples.
ONE = {
    **{f"{how}{name}": r"shape \(n,\)" for how in ("", "averaged ", "ensemble ") for name in OF_SAMPLES},
    **{f"{name} held=0": r"shape \(n,\)" for name in OF_SAMPLES},
    "gauss_newton held=7": r"shape \(n,\)",
    "sample_gradients": r"shape \(n,\)",
    "averaged hessian": "weight",
}
# Root mean square norms, rotary angles and the losses of its own are in single precision, whatever the model is in.
HALF = {"tolerance": {"rtol": 1e-4, "atol": 1e-5}, "without": ("hessian finite_difference",), "refused": OUTPUT}

TRANSFORMERS = {
    "gpt2, all parameters, sdpa": Row(decoder("GPT2LMHeadModel", GPT, "sdpa"), refused=OUTPUT),
    "gpt2, eager": Row(decoder("GPT2LMHeadModel", GPT, "eager", ["*.ln_1.*", "*.wte.*", "*.1.attn.c_proj.*"]), refused=OUTPUT),
    "gpt2 with a cache": Row(
        decoder("GPT2LMHeadModel", {**GPT, "use_cache": True}, "sdpa", ["*.ln_1.*"]),
        refused={EVERY_LAW: "model must return"},  # the way out is use_cache=False, or a forward that returns logits
    ),
    "gpt2, batch encoding": Row(encoded, refused=OUTPUT),
    "llama of transformers, eager": Row(decoder("LlamaForCausalLM", DECODER, "eager", PICKED), **HALF),
    "llama of transformers, sdpa": Row(decoder("LlamaForCausalLM", DECODER, "sdpa", PICKED, side="left"), **HALF),
    "mistral, sdpa": Row(decoder("MistralForCausalLM", {**DECODER, "sliding_window": 3}, "sdpa", PICKED), **HALF),
    "qwen2, eager": Row(decoder("Qwen2ForCausalLM", DECODER, "eager", PICKED), **HALF),
    "bert, eager": Row(bert("eager"), refused=OUTPUT),
    "bert, sdpa": Row(bert("sdpa"), refused=OUTPUT),
    "t5, eager": Row(t5("eager"), **HALF),
    "t5, sdpa": Row(t5("sdpa"), **HALF),
    "gpt2, a forward that returns logits": Row(forward_of_logits),
    "gpt2, its own loss": Row(
        loss_of_the_model, refused=ONE, without=(*OF_OUTPUTS, *FORMS, *HALF["without"]), tolerance=HALF["tolerance"]
    ),
    "qwen2, own loss": Row(own_loss, tolerance=HALF["tolerance"], without=(*OF_OUTPUTS, *HALF["without"])),
}

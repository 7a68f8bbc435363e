"""Makes small random models of every family with golden logits and gradients.

    python tests/data/make_model_golden.py      (needs torch, transformers 5, safetensors)

For each case: models/<case>/config.json as transformers 4 or 5 writes it, model.safetensors, and
golden.safetensors with `ids` and `labels` [B, T], the `logits`, and for the objective sum log p(labels)
the gradient of every linear's output, `grad.<name of the linear>`. Of the models in examples/ only
golden logits are made: models/<name>.golden.safetensors.
"""
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
B, T, V = 2, 8, 61

SIZES = dict(vocab_size=V, hidden_size=24, intermediate_size=28, num_hidden_layers=2,
             num_attention_heads=4, max_position_embeddings=64,
             bos_token_id=0, eos_token_id=1, pad_token_id=None)
GROUPED = dict(SIZES, num_key_value_heads=2)
OPT = {k: v for k, v in SIZES.items() if k != "intermediate_size"} | dict(
    model_type="opt", ffn_dim=28, word_embed_proj_dim=24, do_layer_norm_before=True,
    activation_function="relu", dropout=0.0, pad_token_id=1)

# case: (config, dtype of the stored weights)
CASES = {
    # version 5, head_dim of its own, Llama 3's slowed frequencies
    "llama": (dict(GROUPED, model_type="llama", head_dim=8, hidden_act="silu", rms_norm_eps=1e-5,
                   dtype="float32", tie_word_embeddings=False,
                   rope_parameters=dict(rope_type="llama3", rope_theta=1000.0, factor=4.0,
                                        low_freq_factor=1.0, high_freq_factor=4.0,
                                        original_max_position_embeddings=64)), torch.float32),
    # version 4, biases, tied, no num_key_value_heads
    "llama_v4": (dict(SIZES, model_type="llama", hidden_act="silu", rms_norm_eps=1e-6,
                      torch_dtype="bfloat16", tie_word_embeddings=True, attention_bias=True,
                      mlp_bias=True, rope_theta=500.0,
                      rope_scaling=dict(type="linear", factor=2.5)), torch.bfloat16),
    "opt": (OPT, torch.float32),
    "opt_350m": (dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=16), torch.bfloat16),
    "opt_plain": (dict(OPT, enable_bias=False, layer_norm_elementwise_affine=False,
                       num_hidden_layers=1, activation_function="gelu"), torch.float16),
    "mistral": (dict(GROUPED, model_type="mistral", hidden_act="silu", rms_norm_eps=1e-5,
                     sliding_window=3, rope_theta=10000.0, tie_word_embeddings=False),
                torch.bfloat16),
    "cohere": (dict(GROUPED, model_type="cohere", hidden_act="silu", layer_norm_eps=1e-5,
                    logit_scale=0.4, use_qk_norm=True,
                    rope_parameters=dict(rope_type="default", rope_theta=300.0)), torch.bfloat16),
    "cohere2": (dict(GROUPED, model_type="cohere2", hidden_act="silu", layer_norm_eps=1e-5,
                     logit_scale=0.4, sliding_window=3, sliding_window_pattern=4,
                     rope_theta=300.0, num_hidden_layers=4), torch.bfloat16),
    "qwen2": (dict(GROUPED, model_type="qwen2", hidden_act="silu", rms_norm_eps=1e-6,
                   use_sliding_window=True, sliding_window=3, max_window_layers=1,
                   rope_theta=1000.0, tie_word_embeddings=True), torch.float32),
    "qwen3": (dict(GROUPED, model_type="qwen3", head_dim=8, hidden_act="silu", rms_norm_eps=1e-6,
                   use_sliding_window=False, sliding_window=None,
                   layer_types=["full_attention"] * 2, tie_word_embeddings=False,
                   rope_parameters=dict(rope_type="default", rope_theta=1000.0)), torch.float32),
    "gemma2": (dict(GROUPED, model_type="gemma2", head_dim=8, rms_norm_eps=1e-6,
                    hidden_activation="gelu_pytorch_tanh", hidden_act="gelu_pytorch_tanh",
                    query_pre_attn_scalar=5, attn_logit_softcapping=1.5,
                    final_logit_softcapping=3.0, sliding_window=3, rope_theta=1000.0),
               torch.float32),
    "gemma3": (dict(GROUPED, model_type="gemma3_text", head_dim=8, rms_norm_eps=1e-6,
                    hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=5,
                    sliding_window=3, num_hidden_layers=6,
                    layer_types=["sliding_attention"] * 5 + ["full_attention"],
                    rope_parameters=dict(
                        full_attention=dict(rope_type="linear", factor=2.0, rope_theta=1000.0),
                        sliding_attention=dict(rope_type="default", rope_theta=100.0))),
               torch.bfloat16),
}


def randomise(model, generator):
    """Values that make every part of the model matter."""
    def normal(shape, std):
        return torch.randn(shape, generator=generator) * std

    for name, parameter in model.named_parameters():
        if "norm" in name:
            near = 0.0 if "Gemma" in type(model).__name__ or name.endswith("bias") else 1.0
            value = near + normal(parameter.shape, 0.3)
        elif name.endswith("bias"):
            value = normal(parameter.shape, 0.3)
        elif "embed" in name:
            value = normal(parameter.shape, 0.6)
        else:
            gain = 1.8 if "q_proj" in name or "k_proj" in name else 1.2
            value = normal(parameter.shape, gain * parameter.shape[-1] ** -0.5)
        parameter.data.copy_(value)


def make(case, config_json, dtype):
    folder = HERE / "models" / case
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json, indent=1, sort_keys=True) + "\n")
    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(sum(map(ord, case)))
    randomise(model, generator)
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.to(dtype).float())
    tied = model.config.tie_word_embeddings
    save_file({name: value.to(dtype).contiguous() for name, value in model.state_dict().items()
               if not (tied and name == "lm_head.weight")}, folder / "model.safetensors",
              metadata={"format": "pt"})

    gradients = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            def keep(_module, _inputs, outputs, name=name):
                outputs.register_hook(
                    lambda g, name=name: gradients.__setitem__("grad." + name, g.clone()))
            module.register_forward_hook(keep)
    ids = torch.randint(V, (B, T), generator=generator)
    labels = torch.randint(V, (B, T), generator=generator)
    logits = model(ids, use_cache=False).logits
    objective = torch.log_softmax(logits, -1).gather(-1, labels[..., None]).sum()
    objective.backward()
    save_file({"ids": ids.int(), "labels": labels.int(), "logits": logits.detach().contiguous(),
               **{name: g.reshape(B * T, -1).contiguous() for name, g in gradients.items()}},
              folder / "golden.safetensors")
    print(case, f"logit deviation {logits.std():.2f}", len(gradients),
          "gradients, norms", *(f"{g.norm():.3g}" for g in gradients.values()))


def make_example(name):
    model = AutoModelForCausalLM.from_pretrained(HERE.parents[1] / "examples/models" / name,
                                                 dtype=torch.float32).eval()
    ids = (torch.arange(40) * 37 + 11) % model.config.vocab_size
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    rows = torch.tensor([0, 7, 39])
    save_file({"ids": ids.int(), "rows": rows.int(), "logits": logits[rows].contiguous()},
              HERE / "models" / (name + ".golden.safetensors"))


if __name__ == "__main__":
    torch.manual_seed(0)
    for case, (config_json, dtype) in CASES.items():
        make(case, config_json, dtype)
    for name in ("kjv-llama-1m", "kjv-opt-1m"):
        make_example(name)

"""Writes tests/data/hostile/quantization_config: configs that a reader must refuse, as JSON.

Files named ok_* are right, those named unknown_* name what is not supported; the rest is broken.
Run from anywhere; the same files come out each time.
"""
import json
import pathlib

OUT = pathlib.Path(__file__).parent / "hostile" / "quantization_config"

WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
GROUP = {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": None}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized",
              "quantization_status": "compressed", "ignore": ["lm_head"],
              "config_groups": {"group_0": GROUP}}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True,
        "dynamic": {"+:^model\\.layers\\.0\\.": {"bits": 8}, "-:.*o_proj": {}}}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


def compressed(**changes):
    return COMPRESSED | changes


def weights(**changes):
    return compressed(config_groups={"g": GROUP | {"weights": WEIGHTS | changes}})


def targets(*names):
    return compressed(config_groups={"g": GROUP | {"targets": list(names)}})


def group(**changes):
    return compressed(config_groups={"g": GROUP | changes})


FILES = {
    "ok_compressed": COMPRESSED,
    "ok_names_and_expressions": targets("model.layers.0.mlp.up_proj", "re:.*q_proj$"),
    "ok_gptq": GPTQ,
    "ok_gptq_v2": GPTQ | {"checkpoint_format": "gptq_v2"},
    "ok_awq": AWQ,
    "ok_fp8": compressed(format="float-quantized", config_groups={
        "g": GROUP | {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}),
    # Known formats with what is not supported.
    "unknown_method": {"quant_method": "bitsandbytes"},
    "unknown_no_method": {"bits": 4},
    "unknown_format": compressed(format="marlin-24"),
    "unknown_strategy": weights(strategy="block"),
    "unknown_block_structure": weights(block_structure=[128, 128]),
    "unknown_status": compressed(quantization_status="frozen"),
    "unknown_kv_cache": compressed(kv_cache_scheme={"num_bits": 8}),
    "unknown_sparsity": compressed(sparsity_config={"format": "sparse-24-bitmask"}),
    "unknown_transform": compressed(transform_config={"config_groups": {}}),
    "unknown_activations": group(input_activations={"num_bits": 8, "dynamic": True}),
    "unknown_actorder": weights(actorder="group"),
    "unknown_preset": compressed(config_groups={"W4A16": ["Linear"]}),
    "unknown_int_of_9_bits": weights(num_bits=9),
    "unknown_float_of_4_bits_as_ints": weights(type="float"),
    "unknown_gptq_of_5_bits": GPTQ | {"bits": 5},
    "unknown_gptq_rule_of_7_bits": GPTQ | {"dynamic": {".*": {"bits": 7}}},
    "unknown_gptq_format": GPTQ | {"checkpoint_format": "marlin"},
    "unknown_gptq_words": GPTQ | {"pack_dtype": "int64"},
    "unknown_awq_version": AWQ | {"version": "gemv"},
    "unknown_awq_of_3_bits": AWQ | {"bits": 3},
    # Broken.
    "no_object": [COMPRESSED],
    "method_is_a_number": {"quant_method": 4},
    "no_groups": compressed(config_groups=None),
    "groups_are_a_list": compressed(config_groups=[GROUP]),
    "no_targets": group(targets=None),
    "targets_are_a_string": group(targets="Linear"),
    "target_is_a_number": targets(7),
    "no_weights": group(weights=None),
    "weights_are_a_list": group(weights=[4]),
    "ignore_is_a_string": compressed(ignore="lm_head"),
    "ignore_holds_null": compressed(ignore=[None]),
    "bits_negative": weights(num_bits=-4),
    "bits_a_string": weights(num_bits="4"),
    "bits_a_fraction": weights(num_bits=4.5),
    "bits_2_to_64": weights(num_bits=2**64 - 1),
    "symmetric_a_string": weights(symmetric="yes"),
    "group_size_zero": weights(group_size=0),
    "group_size_missing": compressed(config_groups={"g": GROUP | {
        "weights": {"num_bits": 4, "strategy": "group"}}}),
    "group_size_2_to_62": weights(group_size=2**62),
    "group_size_negative": weights(group_size=-7),
    "expression_too_deep": targets("re:" + "(" * 1000 + "a" + ")" * 1000),
    "expression_open": targets("re:(model"),
    "expression_too_long": targets("re:" + "a?" * 35000),
    "gptq_without_bits": {"quant_method": "gptq"},
    "gptq_dynamic_a_list": GPTQ | {"dynamic": []},
    "gptq_rule_a_number": GPTQ | {"dynamic": {".*": 4}},
    "gptq_rule_does_not_compile": GPTQ | {"dynamic": {"+:[": {"bits": 4}}},
    "awq_without_group": {"quant_method": "awq", "bits": 4},
    # Right, but slow to match for an engine without limits.
    "ok_slow_expression": targets("re:(a+)+(a+)+(a+)+b", "re:model.*(a|aa)+$", "Linear"),
    "ok_deep_expression": targets("re:" + "(" * 50 + "a" + ")" * 50, "Linear"),
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for name, config in FILES.items():
        (OUT / f"{name}.json").write_text(json.dumps(config))
    (OUT / "not_json.json").write_text('{"quant_method": "gptq", "bits": ')
    print(f"{len(FILES) + 1} files")


if __name__ == "__main__":
    main()

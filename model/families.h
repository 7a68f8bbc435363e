// The table of families: what each one reads from its config.json, and what is fixed for it.
#ifndef CVXQ_MODEL_FAMILIES_H_
#define CVXQ_MODEL_FAMILIES_H_

#include <span>
#include <string>

#include "model/arch_spec.h"
#include "model/config_reader.h"

namespace cvxq {

// Which blocks attend within a window only.
enum class Windows : uint8_t {
  kNone,
  kAll,       // Mistral: every block, if the config has a window
  kPattern,   // every n-th block is full; or as `layer_types` says
  kFromLayer  // Qwen: from max_window_layers on, if use_sliding_window; or as `layer_types` says
};

// A row of the table.
struct Family {
  std::string model_type;
  const ArchSpec::Names& names;

  const char* intermediate = "intermediate_size";
  const char* activation = "hidden_act";
  const char* missing_activation = "silu";
  bool gated = true;
  // Names of the fields that switch biases on; nullptr: the family has none.
  const char* attention_bias = nullptr;
  const char* mlp_bias = nullptr;

  bool kv_heads = true;            // reads num_key_value_heads
  bool kv_heads_may_miss = false;  // then as many as heads
  int64_t missing_head_dim = 0;    // 0: hidden / heads

  NormKind norm = NormKind::kRms;
  const char* epsilon = "rms_norm_eps";  // nullptr: missing_epsilon always
  double missing_epsilon = 1e-6;
  ResidualKind residual = ResidualKind::kPre;

  RopeKind rope = RopeKind::kHalf;
  double missing_theta = 10000;
  double missing_local_theta = 0;  // of blocks with a window; 0: they have the others' rope
  bool rope_in_windows_only = false;

  Windows windows = Windows::kNone;
  int64_t missing_window = 4096;
  int64_t missing_pattern = 0;

  bool tied_head = false;
  // What no other family has.
  void (*own_fields)(ConfigReader& read, ArchSpec& spec) = nullptr;
};

// All rows.
std::span<const Family> Families();

}  // namespace cvxq

#endif  // CVXQ_MODEL_FAMILIES_H_

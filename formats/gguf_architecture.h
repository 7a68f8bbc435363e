// Which models GGUF can hold, and how: names of the architecture, its metadata and its tensors, as
// llama.cpp reads them.
#ifndef CVXQ_FORMATS_GGUF_ARCHITECTURE_H_
#define CVXQ_FORMATS_GGUF_ARCHITECTURE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/gguf_file.h"
#include "formats/gguf_writer.h"
#include "model/arch_spec.h"
#include "nlohmann/json.hpp"

namespace cvxq {

// A row of the table: one family of ours as llama.cpp computes it.
struct GgufArchitecture {
  std::string_view family;  // config's model_type
  std::string_view name;    // general.architecture
  // Channels i and i + D/2 of a head, which rotate together, lie side by side: rows of q and k are
  // reordered.
  bool pairs_adjacent = false;
  bool norm_plus_one = false;      // norms hold 1 + weight
  bool rope_divisors = false;      // reads rope_freqs.weight
  bool own_head = false;           // may have a head that is not the token table
  bool matrix_scales = false;      // multiplies by the scale beside every linear
  bool square_attention = false;   // heads * head_dim must be hidden
  int64_t window_period = 0;       // every n-th block is full as a rule; 0: knows no windows
  int64_t other_scale_layers = 0;  // with so many blocks, scores are scaled by (hidden/heads)^-1/2
  std::string_view biases;         // linears that may have one: letters of "qkvogud"

  bool ReadsBias(LinearId id) const;
};

// kUnimplemented, naming formats that can hold it, for a family that has no row.
StatusOr<const GgufArchitecture*> FindGgufArchitecture(std::string_view family);
// By general.architecture; nullptr for an unknown one.
const GgufArchitecture* FindGgufArchitectureByName(std::string_view name);

// kUnimplemented for a model of the family that computes what llama.cpp does not.
Status CheckGgufModel(const GgufArchitecture& architecture, const ArchSpec& spec);

// Adds what the architecture reads. A model with windows that the architecture does not know is
// given a context no longer than the window: there both compute the same.
void AddGgufModel(const GgufArchitecture& architecture, const ArchSpec& spec,
                  GgufMetadata& metadata);

// The config.json that gives the same model back. kDataLoss, kUnimplemented with the file's path.
StatusOr<nlohmann::json> ConfigFromGguf(const GgufFile& file);

// Divisors of the frequencies of a head's channel pairs [head_dim / 2]: the tensor
// rope_freqs.weight.
std::vector<float> GgufRopeDivisors(const RopeSpec& rope, int64_t head_dim);

// A tensor that the model has or may have (a bias), in both worlds.
struct GgufPlace {
  std::string checkpoint, file;  // names
  Shape shape;
  enum class Kind : uint8_t { kMatrix, kNorm, kBias } kind = Kind::kMatrix;
  int permuted_heads = 0;  // rows of each of so many heads lie pair by pair; 0: rows as they are
  bool plus_one = false;   // holds 1 + weight
  int64_t block = -1;      // of a linear and its bias; -1: of neither
  LinearId linear{};
};

// In the order of the file: token table, blocks, final norm, head (absent where tied).
std::vector<GgufPlace> GgufPlaces(const GgufArchitecture& architecture, const ArchSpec& spec);

// Where row r of the file's tensor comes from in the checkpoint, [rows]; empty: rows are the same.
std::vector<int64_t> GgufRowOrder(const GgufPlace& place);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_ARCHITECTURE_H_

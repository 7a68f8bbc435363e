#include "pipeline/inspect.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "base/size.h"
#include "formats/ggml_types.h"
#include "formats/gguf_model.h"
#include "formats/quantized_checkpoint.h"
#include "pipeline/model_files.h"
#include "quant/affine_format.h"
#include "storage/safetensors.h"

namespace cvxq {
namespace {

// What each form tells of itself; sets all but name, form, shape and bytes.
void InspectMatrix(const PackedMatrix& matrix, InspectLinear& linear) {
  for (size_t g = 0; g < matrix.depth.size(); ++g) {
    const int64_t c = static_cast<int64_t>(g) / matrix.line_count();
    linear.depth_histogram[matrix.depth[g]] += matrix.cluster_end(c) - matrix.cluster_begin(c);
  }
  const double weights = static_cast<double>(matrix.rows * matrix.columns);
  linear.code_bytes = static_cast<int64_t>(matrix.codes.size());
  linear.zero_fraction = static_cast<double>(linear.depth_histogram[0]) / weights;
}

void InspectMatrix(const ScaledMatrix& matrix, InspectLinear& linear) {
  const auto zeros = std::count(matrix.codes.begin(), matrix.codes.end(), 0) -
                     static_cast<int64_t>(matrix.outliers.size());  // which have no code
  linear.code_bytes = linear.bytes;
  linear.zero_fraction =
      static_cast<double>(zeros) / static_cast<double>(matrix.rows * matrix.columns);
}

void InspectMatrix(const AffineMatrix& matrix, InspectLinear& linear) {
  const double weights = static_cast<double>(matrix.rows * matrix.columns);
  const std::vector<float> w = Decode(matrix);
  linear.code_bytes = CodeBytes(matrix);
  linear.zero_fraction = static_cast<double>(std::count(w.begin(), w.end(), 0.0f)) / weights;
  linear.width = matrix.bits;
  linear.group = matrix.group;
  linear.kept_columns = static_cast<int64_t>(matrix.kept_columns.size());
}

InspectLinear InspectCodes(const std::string& name, const LinearCodes& codes, int64_t bytes) {
  InspectLinear linear{.name = name,
                       .form = static_cast<LinearForm>(codes.index()),
                       .rows = RowsOf(codes),
                       .columns = ColumnsOf(codes),
                       .bytes = bytes};
  std::visit([&](const auto& matrix) { InspectMatrix(matrix, linear); }, codes);
  const double weights = static_cast<double>(linear.rows * linear.columns);
  linear.bits_per_weight = 8.0 * static_cast<double>(bytes) / weights;
  linear.nominal_bits_per_weight = 8.0 * static_cast<double>(linear.code_bytes) / weights;
  return linear;
}

// "packed": the ending of the form's tensors without its dot.
std::string FormName(LinearForm form) {
  return std::string(kFormSuffixes[static_cast<size_t>(form)].substr(1));
}

// The bytes that are there for the quantised matrices, as PackedWriter counts them: by how much the
// file would shrink without them, what they share, and the biases that bias correction added.
int64_t PackedBytes(const ModelFiles& files) {
  std::set<std::string> new_biases;
  for (int64_t block = 0; block < files.spec.layers; ++block) {
    for (const LinearId id : files.spec.linears()) {
      if (files.spec.bias[static_cast<int>(id)]) continue;
      new_biases.insert(files.spec.LinearName(block, id) + ".bias");
    }
  }
  std::vector<TensorEntry> all, rest;
  for (const std::string& name : files.checkpoint->names()) {
    const TensorInfo& tensor = *files.checkpoint->Find(name);
    all.push_back({name, tensor.dtype, tensor.shape});
    if (!IsQuantizedTensor(name) && !new_biases.contains(name)) rest.push_back(all.back());
  }
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  return SafetensorsFileSize(all, metadata) - SafetensorsFileSize(rest, metadata);
}

std::string Bar(double share, int width) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(share * width * 8 + 0.5);
  std::string bar;
  for (int i = 0; i < eighths / 8; ++i) bar += "█";
  return bar + kEighths[eighths % 8];
}

// A number with a mark at every thousand: 6291456 -> 6,291,456.
std::string Grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) digits.insert(i, ",");
  return digits;
}

// The part of a linear's name that its block repeats, and the block's index: "self_attn.q_proj", 3.
std::pair<std::string, int64_t> SplitName(const std::string& name) {
  size_t begin = 0;
  while (begin < name.size()) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    if (!part.empty() && part.find_first_not_of("0123456789") == std::string::npos) {
      return {name.substr(std::min(end + 1, name.size())), std::stoll(part)};
    }
    begin = end + 1;
  }
  return {name, 0};
}

// A table of the mean depth of every linear: one line for each block, one column for each kind.
std::string DepthTable(const std::vector<InspectLinear>& linears) {
  std::vector<std::string> kinds;
  std::map<int64_t, std::map<std::string, double>> cell;
  for (const InspectLinear& linear : linears) {
    const auto [kind, block] = SplitName(linear.name);
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
    cell[block][kind] = linear.bits_per_weight;
  }
  std::string text = absl::StrFormat("%-7s", "block");
  const auto shorter = [](const std::string& kind) {
    const size_t dot = kind.rfind('.');
    return dot == std::string::npos ? kind : kind.substr(dot + 1);
  };
  for (const std::string& kind : kinds) absl::StrAppendFormat(&text, "%11s", shorter(kind));
  text += "\n";
  for (const auto& [block, row] : cell) {
    absl::StrAppendFormat(&text, "%5d  ", block);
    for (const std::string& kind : kinds) {
      const auto found = row.find(kind);
      found == row.end() ? absl::StrAppendFormat(&text, "%11s", "")
                         : absl::StrAppendFormat(&text, "%11.2f", found->second);
    }
    text += "\n";
  }
  return text;
}

std::string DepthHistogram(const std::vector<InspectLinear>& linears) {
  std::array<int64_t, kMaxDepth + 1> histogram{};
  for (const InspectLinear& linear : linears) {
    for (int b = 0; b <= kMaxDepth; ++b) histogram[b] += linear.depth_histogram[b];
  }
  const int64_t total =
      std::max<int64_t>(1, std::accumulate(histogram.begin(), histogram.end(), int64_t{0}));
  const int64_t most = *std::max_element(histogram.begin(), histogram.end());
  std::string text = "weights by bit depth\n";
  for (int b = 0; b <= kMaxDepth; ++b) {
    absl::StrAppendFormat(&text, "  %d  %6.2f %%  %s\n", b, 100.0 * histogram[b] / total,
                          Bar(static_cast<double>(histogram[b]) / std::max<int64_t>(1, most), 48));
  }
  return text;
}

// What the linears in one form have in common; nothing where there are none.
std::string FormText(LinearForm form, const std::vector<InspectLinear>& linears) {
  int64_t count = 0, kept_columns = 0;
  double weights = 0, zeros = 0;
  std::set<std::pair<int, int64_t>> grids;  // affine: width and group
  for (const InspectLinear& linear : linears) {
    if (linear.form != form) continue;
    const double size = static_cast<double>(linear.rows * linear.columns);
    ++count;
    kept_columns += linear.kept_columns;
    weights += size;
    zeros += linear.zero_fraction * size;
    grids.emplace(linear.width, linear.group);
  }
  if (count == 0) return "";
  std::string text = absl::StrFormat("%d linears in the %s form, %.2f %% of their weights zero",
                                     count, FormName(form), 100 * zeros / weights);
  if (form == LinearForm::kAffine) {
    for (const auto& [width, group] : grids) {
      absl::StrAppendFormat(&text, "; %d bits, groups of %d", width, group);
    }
    if (kept_columns > 0) absl::StrAppendFormat(&text, "; %d columns kept", kept_columns);
  }
  text += "\n";
  return form == LinearForm::kPacked ? text + DepthHistogram(linears) : text;
}

// Of a GGUF file: its commonest type, the bits of its linears, its size.
void AddGguf(const GgufModel& model, InspectReport& report) {
  std::map<std::string, int64_t> types;
  int64_t linear_bytes = 0;
  for (const auto& [name, tensor] : model.file().tensors()) {
    const GgmlType* type = FindGgmlType(static_cast<int>(tensor.type));
    types[type->name()] += static_cast<int64_t>(tensor.bytes.size());
    if (name.starts_with("blk.") && tensor.shape.rank() == 2) {
      linear_bytes += static_cast<int64_t>(tensor.bytes.size());
    }
  }
  int64_t most = -1;
  for (const auto& [type, bytes] : types) {
    if (bytes > most) report.dtype = type;
    most = std::max(most, bytes);
  }
  report.quantization_config = {{"quant_method", "gguf"}, {"bytes_by_type", types}};
  report.file_bytes = model.file().file_bytes();
  report.file_bits =
      8.0 * static_cast<double>(report.file_bytes) / static_cast<double>(report.parameters);
  report.bits_per_weight = report.nominal_bits_per_weight =
      8.0 * static_cast<double>(linear_bytes) / static_cast<double>(report.quantized_parameters);
}

// Of a checkpoint in another tool's format: the bits of its linears, and how many are stored how.
void AddQuantized(const ModelFiles& files, InspectReport& report) {
  double bits = 0, weights = 0;
  std::map<std::string, int64_t> schemes;
  for (const auto& [name, matrix] : files.quantized->linears()) {
    for (const std::string& tensor : matrix.tensors(*files.checkpoint)) {
      bits += 8.0 * static_cast<double>(files.checkpoint->Find(tensor)->bytes());
    }
    weights += static_cast<double>(matrix.rows * matrix.columns);
    ++schemes[SchemeName(matrix.scheme)];
  }
  report.quantization_config = files.checkpoint->config()["quantization_config"];
  report.linears_by_scheme = std::move(schemes);
  report.bits_per_weight = report.nominal_bits_per_weight = weights > 0 ? bits / weights : 0;
}

}  // namespace

StatusOr<InspectReport> Inspect(const std::string& model) {
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles files, OpenModel(model));
  InspectReport report{.model = model, .family = files.spec.family, .packed = files.packed};
  report.layers = files.spec.layers;
  report.hidden = files.spec.hidden;
  report.heads = files.spec.heads;
  report.kv_heads = files.spec.kv_heads;
  report.vocabulary = files.spec.vocabulary;
  report.max_positions = files.spec.max_positions;
  report.parameters = files.parameters();
  report.quantized_parameters = files.spec.quantized_parameters();
  if (files.gguf != nullptr) {
    AddGguf(*files.gguf, report);
    return report;
  }
  std::map<std::string, int64_t> dtypes;
  int64_t code_bytes = 0, model_bytes = 0;
  for (const std::string& name : files.checkpoint->names()) {
    const TensorInfo& tensor = *files.checkpoint->Find(name);
    if (files.packed && IsQuantizedTensor(name)) continue;
    if (files.quantized != nullptr && files.quantized->Owns(name)) continue;
    dtypes[std::string(Name(tensor.dtype))] += tensor.bytes();
  }
  for (int64_t block = 0; files.packed && block < files.spec.layers; ++block) {
    for (const LinearId id : files.spec.linears()) {
      const std::string linear = files.spec.LinearName(block, id);
      CVXQ_ASSIGN_OR_RETURN(const std::shared_ptr<const LinearCodes> codes,
                            files.weights->Packed(linear));
      if (codes == nullptr) continue;
      const std::string suffix(kFormSuffixes[codes->index()]);
      report.linears.push_back(
          InspectCodes(linear, *codes, files.checkpoint->Find(linear + suffix)->bytes()));
      code_bytes += report.linears.back().code_bytes;
    }
  }
  int64_t most = -1;
  for (const auto& [dtype, bytes] : dtypes) {
    if (bytes > most) report.dtype = dtype;
    most = std::max(most, bytes);
  }
  CVXQ_ASSIGN_OR_RETURN(const std::vector<Folder::File> listed, files.checkpoint->files().List());
  CVXQ_ASSIGN_OR_RETURN(report.revision, files.checkpoint->files().Revision());
  for (const Folder::File& file : listed) {
    report.file_bytes += file.size;
    if (file.name.ends_with(".safetensors")) model_bytes += file.size;
  }
  report.file_bits =
      8.0 * static_cast<double>(model_bytes) / static_cast<double>(report.parameters);
  if (files.quantized != nullptr) {
    AddQuantized(files, report);
  } else if (files.packed) {
    const double weights = static_cast<double>(report.quantized_parameters);
    report.quantization_config = files.checkpoint->config()["quantization_config"];
    report.bits_per_weight = 8.0 * static_cast<double>(PackedBytes(files)) / weights;
    report.nominal_bits_per_weight = 8.0 * static_cast<double>(code_bytes) / weights;
  }
  return report;
}

nlohmann::ordered_json InspectReport::ToJson() const {
  nlohmann::ordered_json json = {
      {"model", model},           {"family", family},
      {"packed", packed},         {"dtype", dtype},
      {"layers", layers},         {"hidden", hidden},
      {"heads", heads},           {"kv_heads", kv_heads},
      {"vocabulary", vocabulary}, {"max_positions", max_positions},
      {"parameters", parameters}, {"quantized_parameters", quantized_parameters},
      {"file_bytes", file_bytes}, {"file_bits", file_bits}};
  if (!revision.empty()) json["revision"] = revision;
  if (!packed) return json;
  json["bits_per_weight"] = bits_per_weight;
  json["nominal_bits_per_weight"] = nominal_bits_per_weight;
  json["quantization_config"] = quantization_config;
  if (!linears_by_scheme.empty()) json["linears_by_scheme"] = linears_by_scheme;
  json["linears"] = nlohmann::ordered_json::array();
  for (const InspectLinear& linear : linears) {
    nlohmann::ordered_json entry = {{"name", linear.name},
                                    {"form", FormName(linear.form)},
                                    {"rows", linear.rows},
                                    {"columns", linear.columns},
                                    {"bytes", linear.bytes},
                                    {"bits_per_weight", linear.bits_per_weight},
                                    {"nominal_bits_per_weight", linear.nominal_bits_per_weight},
                                    {"zero_fraction", linear.zero_fraction}};
    if (linear.form == LinearForm::kPacked) entry["depth_histogram"] = linear.depth_histogram;
    if (linear.form == LinearForm::kAffine) {
      entry["width"] = linear.width;
      entry["group"] = linear.group;
      entry["kept_columns"] = linear.kept_columns;
    }
    json["linears"].push_back(std::move(entry));
  }
  return json;
}

std::string InspectReport::ToText() const {
  std::string text = absl::StrFormat(
      "%s\n  %s, %d blocks, hidden %d, %d heads (%d for keys), vocabulary %s, context %s\n"
      "  %s parameters, %s of them in the linears of blocks\n  %s on disk, %.3f bits a parameter\n",
      model, family, layers, hidden, heads, kv_heads, Grouped(vocabulary), Grouped(max_positions),
      Grouped(parameters), Grouped(quantized_parameters), FormatBytes(file_bytes), file_bits);
  if (!revision.empty()) absl::StrAppend(&text, "  revision ", revision, "\n");
  if (!packed) return text + absl::StrFormat("  not quantised, %s\n", dtype);
  if (quantization_config.contains("bytes_by_type")) {
    absl::StrAppendFormat(&text, "  GGUF: %.4f bits a weight in the linears of blocks\n",
                          bits_per_weight);
    for (const auto& [type, bytes] : quantization_config["bytes_by_type"].items()) {
      absl::StrAppendFormat(&text, "  %-8s %s\n", type, FormatBytes(bytes.get<int64_t>()));
    }
    return text;
  }
  if (!linears_by_scheme.empty()) {
    absl::StrAppendFormat(&text, "  %s: %.4f bits a weight in %s\n",
                          quantization_config["quant_method"].get<std::string>(), bits_per_weight,
                          "the quantised linears");
    for (const auto& [scheme, count] : linears_by_scheme) {
      absl::StrAppendFormat(&text, "  %-16s %d linears\n", scheme, count);
    }
    return text;
  }
  const auto found = quantization_config.find("codec");
  const std::string codec = found != quantization_config.end() && found->is_string()
                                ? found->get<std::string>()
                                : "an unnamed codec";
  absl::StrAppendFormat(&text, "  packed by %s: %.4f bits a weight, of them %.4f codes\n\n", codec,
                        bits_per_weight, nominal_bits_per_weight);
  for (const LinearForm form : {LinearForm::kPacked, LinearForm::kScaled, LinearForm::kAffine}) {
    text += FormText(form, linears);
  }
  return text + "\nbits a weight, side information included\n" + DepthTable(linears);
}

}  // namespace cvxq

// MakeGguf: the model's tensors and metadata laid out, and written matrix by matrix.
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/export_format.h"
#include "formats/ggml_types.h"
#include "formats/gguf_architecture.h"
#include "formats/gguf_file.h"
#include "formats/gguf_matrix.h"
#include "formats/gguf_menu.h"
#include "formats/gguf_tokenizer.h"
#include "formats/gguf_writer.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

constexpr char kFileName[] = "model";
constexpr char kRopeDivisors[] = "rope_freqs.weight";
constexpr uint32_t kF32 = 0;

// What a tensor of the file is made of: a matrix, the scale beside it, or floats, of a norm or bias
// of the checkpoint or of our own making.
struct Item {
  GgufPlace place;
  int64_t matrix = -1;     // index of matrices(); -1: floats
  std::vector<float> own;  // empty: the checkpoint's
};

const GgmlType& Ggml(const WeightType* type) { return *static_cast<const GgmlType*>(type); }

std::string WithoutSuffix(const std::string& name) { return name.substr(0, name.rfind('.')); }

class GgufFormat final : public ExportFormat {
 public:
  GgufFormat(const Checkpoint& checkpoint, const ArchSpec& spec, const ExportFormatOptions& options)
      : checkpoint_(checkpoint), spec_(spec), options_(options) {}

  Status Prepare() {
    CVXQ_ASSIGN_OR_RETURN(const GgufArchitecture* architecture, FindGgufArchitecture(spec_.family));
    CVXQ_RETURN_IF_ERROR(CheckGgufModel(*architecture, spec_));
    CVXQ_ASSIGN_OR_RETURN(menu_, GgufMenu::Make(options_));
    for (GgufPlace& place : GgufPlaces(*architecture, spec_)) {
      CVXQ_RETURN_IF_ERROR(Add(*architecture, std::move(place)));
    }
    const RopeSpec& rope = spec_.layer.front().rope;
    if (rope.scaling == "llama3") {
      items_.insert(items_.begin() + 1,
                    {.place = {.file = kRopeDivisors, .shape = {spec_.head_dim / 2}},
                     .own = GgufRopeDivisors(rope, spec_.head_dim)});
    }
    metadata_.String("general.architecture", architecture->name);
    metadata_.String("general.type", "model");
    metadata_.U32("general.quantization_version", 2);
    AddGgufModel(*architecture, spec_, metadata_);
    return AddGgufTokenizer(checkpoint_.files(), spec_.vocabulary, metadata_);
  }

  std::string name() const override { return "gguf"; }

  int64_t TotalBytes(const std::vector<const WeightType*>& choice) const override {
    const std::vector<Part> parts = Parts(choice);
    int64_t total = 0;
    for (const Part& part : parts) total += GgufFileSize(part.metadata_bytes, part.entries);
    return total;
  }

  Status Write(const std::vector<const WeightType*>& choice,
               const std::function<StatusOr<ExportedMatrix>(size_t)>& matrix,
               const std::string& folder) override {
    const std::vector<Part> parts = Parts(choice);
    float scale = 1;  // of the matrix written last
    for (size_t i = 0; i < parts.size(); ++i) {
      GgufMetadata metadata = i == 0 ? metadata_ : GgufMetadata();
      metadata.Append(Extra(i, parts.size(), choice));
      const std::string name =
          GgufFileName(kFileName, static_cast<int64_t>(i), static_cast<int64_t>(parts.size()));
      CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<GgufWriter> writer,
                            GgufWriter::Create(folder + "/" + name, metadata, parts[i].entries));
      for (size_t k = 0; k < parts[i].items.size(); ++k) {
        const Item& item = *parts[i].items[k];
        if (item.matrix < 0) {
          CVXQ_ASSIGN_OR_RETURN(const std::vector<float> values, ValuesOf(item));
          CVXQ_RETURN_IF_ERROR(writer->Append(std::as_bytes(std::span(values))));
        } else if (parts[i].entries[k].name != item.place.file) {
          CVXQ_RETURN_IF_ERROR(writer->Append(std::as_bytes(std::span(&scale, 1))));
        } else {
          const size_t index = static_cast<size_t>(item.matrix);
          CVXQ_ASSIGN_OR_RETURN(const ExportedMatrix exported, matrix(index));
          scale = exported.grid.matrix_scale;
          const auto bytes =
              PackGgufMatrix(Ggml(choice[index]), item.place.shape[0], item.place.shape[1],
                             exported, GgufRowOrder(item.place));
          if (!bytes.ok()) {
            return Status(bytes.status().code(), absl::StrCat("tensor ", item.place.checkpoint,
                                                              ": ", bytes.status().message()));
          }
          CVXQ_RETURN_IF_ERROR(writer->Append(*bytes));
        }
      }
      CVXQ_RETURN_IF_ERROR(writer->Finish());
    }
    return absl::OkStatus();
  }

 private:
  // One file.
  struct Part {
    std::vector<GgufEntry> entries;
    std::vector<const Item*> items;  // of the entries
    int64_t metadata_bytes = 0;
  };

  Status Add(const GgufArchitecture& architecture, GgufPlace place) {
    const TensorInfo* found = checkpoint_.Find(place.checkpoint);
    if (found == nullptr && place.kind == GgufPlace::Kind::kBias) return absl::OkStatus();
    const auto wrong = [&](absl::StatusCode code, const std::string& what) {
      return Status(code, absl::StrCat(checkpoint_.folder(), ": tensor ", Quoted(place.checkpoint),
                                       " ", what));
    };
    if (found == nullptr) return wrong(absl::StatusCode::kDataLoss, "is missing");
    if (found->shape != place.shape) {
      return wrong(absl::StatusCode::kDataLoss,
                   absl::StrCat("has shape ", found->shape.ToString(), ", but the config asks for ",
                                place.shape.ToString()));
    }
    if (place.kind == GgufPlace::Kind::kBias && !architecture.ReadsBias(place.linear)) {
      return wrong(absl::StatusCode::kUnimplemented,
                   absl::StrCat("is a bias that llama.cpp does not read in the architecture ",
                                std::string(architecture.name),
                                "; export the model as compressed-tensors, gptq or awq"));
    }
    Item item;
    if (place.kind == GgufPlace::Kind::kMatrix) {
      item.matrix = static_cast<int64_t>(matrices_.size());
      matrices_.push_back(MatrixOf(architecture, place, found->dtype));
    }
    item.place = std::move(place);
    items_.push_back(std::move(item));
    return absl::OkStatus();
  }

  ExportMatrix MatrixOf(const GgufArchitecture& architecture, const GgufPlace& place,
                        DType dtype) const {
    ExportMatrix matrix{
        .name = WithoutSuffix(place.checkpoint), .rows = place.shape[0], .columns = place.shape[1]};
    if (place.checkpoint == spec_.names.embedding + ".weight") {
      matrix.role = ExportMatrix::Role::kEmbedding;
    } else if (place.checkpoint == spec_.names.head + ".weight") {
      matrix.role = ExportMatrix::Role::kHead;
    } else {
      matrix.block = place.block;
      matrix.id = place.linear;
    }
    // llama.cpp refuses a scale and a bias together.
    const bool scaled = architecture.matrix_scales && matrix.role == ExportMatrix::Role::kLinear &&
                        checkpoint_.Find(matrix.name + ".bias") == nullptr;
    menu_.Choose(dtype, scaled, matrix);
    return matrix;
  }

  // A norm or a bias as floats, or what we made.
  StatusOr<std::vector<float>> ValuesOf(const Item& item) const {
    if (!item.own.empty()) return item.own;
    CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_.Get(item.place.checkpoint));
    CVXQ_ASSIGN_OR_RETURN(const std::vector<float> stored, ToFloats(tensor));
    const std::vector<int64_t> order = GgufRowOrder(item.place);
    std::vector<float> values(stored.size());
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = stored[order.empty() ? i : order[i]] + (item.place.plus_one ? 1.0f : 0.0f);
    }
    return values;
  }

  // What the metadata say of the choice and of the set of files.
  GgufMetadata Extra(size_t index, size_t count,
                     const std::vector<const WeightType*>& choice) const {
    GgufMetadata extra;
    if (index == 0) extra.U32("general.file_type", GgufFileType(matrices_, choice));
    if (count > 1) {
      int32_t tensors = 0;
      for (const Item& item : items_) {
        tensors += item.matrix >= 0 && HasMatrixScale(Ggml(choice[item.matrix])) ? 2 : 1;
      }
      extra.U16("split.no", static_cast<uint16_t>(index));
      extra.U16("split.count", static_cast<uint16_t>(count));
      extra.I32("split.tensors.count", tensors);
    }
    return extra;
  }

  // Cuts the tensors into files of at most split_bytes, as far as single tensors allow it.
  std::vector<Part> Parts(const std::vector<const WeightType*>& choice) const {
    std::vector<GgufEntry> entries;
    std::vector<const Item*> items;
    for (const Item& item : items_) {
      const GgmlType* type = item.matrix >= 0 ? &Ggml(choice[item.matrix]) : nullptr;
      entries.push_back({.name = item.place.file,
                         .shape = item.place.shape,
                         .type = type == nullptr ? kF32 : static_cast<uint32_t>(type->id())});
      items.push_back(&item);
      if (type == nullptr || !HasMatrixScale(*type)) continue;
      entries.push_back(
          {.name = WithoutSuffix(item.place.file) + ".scale", .shape = {1}, .type = kF32});
      items.push_back(&item);
    }
    const auto bytes_of = [&](size_t index, size_t count) {
      const size_t own = index == 0 ? metadata_.bytes().size() : 0;
      return static_cast<int64_t>(own + Extra(index, count, choice).bytes().size());
    };
    std::vector<Part> parts(1);
    const int64_t most = options_.split_bytes > 0 ? options_.split_bytes : INT64_MAX;
    int64_t size = GgufFileSize(bytes_of(0, 2), {});
    for (size_t i = 0; i < entries.size(); ++i) {
      // Counted with the padding of a header of its own: the sum is never too small.
      const int64_t bytes = GgufFileSize(0, {entries[i]});
      if (!parts.back().entries.empty() && size > most - bytes) {
        parts.emplace_back();
        size = GgufFileSize(bytes_of(1, 2), {});
      }
      size += bytes;
      parts.back().entries.push_back(std::move(entries[i]));
      parts.back().items.push_back(items[i]);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      parts[i].metadata_bytes = bytes_of(i, parts.size());
    }
    return parts;
  }

  const Checkpoint& checkpoint_;
  const ArchSpec spec_;
  const ExportFormatOptions options_;
  GgufMenu menu_;
  GgufMetadata metadata_;  // without Extra
  std::vector<Item> items_;
};

}  // namespace

StatusOr<std::unique_ptr<ExportFormat>> MakeGguf(const Checkpoint& checkpoint, const ArchSpec& spec,
                                                 const ExportFormatOptions& options) {
  auto format = std::make_unique<GgufFormat>(checkpoint, spec, options);
  CVXQ_RETURN_IF_ERROR(format->Prepare());
  return format;
}

}  // namespace cvxq

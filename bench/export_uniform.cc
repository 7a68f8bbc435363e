// Writes a checkpoint in a format of other engines with codes nearest to the weights: files to hold
// against what those engines make of them (scripts/check_exports.sh).
//
//   bench_export_uniform MODEL FORMAT TYPE OUT [SPLIT_BYTES]
//
// TYPE is one for all matrices (where it does not fit, the largest that does), or `mixed`: the
// types of each matrix take turns. OUT.decoded becomes a dense checkpoint of what is read back from
// OUT.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/export_format.h"
#include "pipeline/model_files.h"
#include "storage/safetensors.h"
#include "tests/formats/nearest_grid.h"

namespace cvxq {
namespace {

StatusOr<std::unique_ptr<ExportFormat>> Make(const std::string& name, const ModelFiles& files,
                                             const ExportFormatOptions& options) {
  if (name == "gguf") return MakeGguf(*files.checkpoint, files.spec, options);
  return absl::InvalidArgumentError("the format " + name + " is not known here");
}

Status Export(const std::string& model, const std::string& name, const std::string& type,
              const std::string& out, int64_t split_bytes) {
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles files, OpenModel(model));
  if (files.packed) return absl::InvalidArgumentError(model + " is quantised already");
  ExportFormatOptions options{.split_bytes = split_bytes};
  if (type != "mixed") options.menu = {type};
  CVXQ_ASSIGN_OR_RETURN(const auto format, Make(name, files, options));
  std::vector<const WeightType*> choice;
  for (size_t i = 0; i < format->matrices().size(); ++i) {
    const ExportMatrix& matrix = format->matrices()[i];
    choice.push_back(type == "mixed" ? matrix.types[i % matrix.types.size()] : matrix.types.back());
    std::printf("%s %s%s%s\n", matrix.name.c_str(), choice.back()->name().c_str(),
                matrix.fallback.empty() ? "" : ": ", matrix.fallback.c_str());
  }
  std::filesystem::create_directories(out);
  const auto matrix_of = [&](size_t index) -> StatusOr<ExportedMatrix> {
    const ExportMatrix& matrix = format->matrices()[index];
    CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, files.weights->Dense(matrix.name + ".weight"));
    CVXQ_ASSIGN_OR_RETURN(const std::vector<float> w, ToFloats(tensor));
    return NearestMatrix(*choice[index], w, matrix.rows, matrix.columns);
  };
  CVXQ_RETURN_IF_ERROR(format->Write(choice, matrix_of, out));
  int64_t written = 0;
  for (const auto& entry : std::filesystem::directory_iterator(out)) {
    written += static_cast<int64_t>(entry.file_size());
  }
  std::printf("%lld bytes, %lld foretold\n", static_cast<long long>(written),
              static_cast<long long>(format->TotalBytes(choice)));
  return absl::OkStatus();
}

// All tensors of `original` as they are read from the export, in F32.
Status ReadBack(const std::string& original, const std::string& exported, const std::string& out) {
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles from, OpenModel(original));
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles files, OpenModel(exported));
  std::vector<TensorEntry> entries;
  for (const std::string& name : from.checkpoint->names()) {
    if (const auto info = files.weights->Describe(name)) {
      entries.push_back({name, DType::kF32, info->shape});
    }
  }
  std::filesystem::create_directories(out);
  CVXQ_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(out + "/model.safetensors",
                                                                     entries, {{"format", "pt"}}));
  for (const TensorEntry& entry : entries) {
    CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, files.weights->Dense(entry.name));
    CVXQ_ASSIGN_OR_RETURN(const std::vector<float> values, ToFloats(tensor));
    CVXQ_RETURN_IF_ERROR(writer->Append(std::as_bytes(std::span(values))));
  }
  CVXQ_RETURN_IF_ERROR(writer->Finish());
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
    if (!std::filesystem::exists(original + "/" + name)) continue;
    std::filesystem::copy_file(original + "/" + name, out + "/" + name,
                               std::filesystem::copy_options::overwrite_existing);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    std::fprintf(stderr, "usage: bench_export_uniform MODEL FORMAT TYPE OUT [SPLIT_BYTES]\n");
    return 2;
  }
  const std::string model = argv[1], out = argv[4];
  cvxq::Status status =
      cvxq::Export(model, argv[2], argv[3], out, argc == 6 ? std::atoll(argv[5]) : 0);
  if (status.ok()) status = cvxq::ReadBack(model, out, out + ".decoded");
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

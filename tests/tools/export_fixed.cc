// Exports a model with the types of a menu in turn, rounded to nearest, for scripts that hold what
// is written against other programs; and writes what a quantised checkpoint holds, as we read it:
//   export_fixed FORMAT MODEL OUT MENU [GROUP] [ENGINE]
//     FORMAT  compressed-tensors, gptq or awq
//     MENU    types with commas between; "" for the format's own
//   export_fixed read FOLDER OUT.safetensors
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "absl/strings/str_split.h"
#include "formats/quantized_checkpoint.h"
#include "tests/formats/fixed_export.h"

namespace cvxq {
namespace {

Status WriteDense(const std::string& folder, const std::string& path) {
  CVXQ_ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint,
                        Checkpoint::Open(folder));
  CVXQ_ASSIGN_OR_RETURN(const auto source, QuantizedCheckpoint::Open(checkpoint, 1));
  std::set<std::string> names;
  for (const auto& [linear, matrix] : source->linears()) names.insert(linear + ".weight");
  for (const std::string& name : checkpoint->names()) {
    if (source->Describe(name)) names.insert(name);
  }
  std::vector<TensorEntry> entries;
  for (const std::string& name : names) {
    const TensorInfo info = *source->Describe(name);
    entries.push_back({name, info.dtype, info.shape});
  }
  CVXQ_ASSIGN_OR_RETURN(const auto writer,
                        SafetensorsWriter::Create(path, entries, {{"format", "pt"}}));
  for (const std::string& name : names) {
    CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, source->Dense(name));
    CVXQ_RETURN_IF_ERROR(writer->Append({tensor.data, static_cast<size_t>(tensor.bytes())}));
  }
  return writer->Finish();
}

Status Run(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "read") return WriteDense(argv[2], argv[3]);
  const std::map<std::string, MakeFormat> formats = {
      {"compressed-tensors", MakeCompressedTensors}, {"gptq", MakeGptq}, {"awq", MakeAwq}};
  const auto format = argc >= 5 ? formats.find(argv[1]) : formats.end();
  if (format == formats.end()) {
    return absl::InvalidArgumentError("usage: export_fixed FORMAT MODEL OUT MENU [GROUP] [ENGINE]");
  }
  ExportFormatOptions options;
  const std::string menu = argv[4];
  if (!menu.empty()) options.menu = absl::StrSplit(menu, ',');
  if (argc > 5) options.group = std::stoll(argv[5]);
  if (argc > 6) options.engine = argv[6];
  CVXQ_ASSIGN_OR_RETURN(FixedExport out, DrawFixedExport(argv[2], format->second, options));
  std::filesystem::create_directories(argv[3]);
  CVXQ_RETURN_IF_ERROR(WriteFixedExport(out, argv[3]));
  for (size_t i = 0; i < out.choice.size(); ++i) {
    const ExportMatrix& matrix = out.format->matrices()[i];
    std::printf("%s %s%s%s\n", matrix.name.c_str(), out.choice[i]->name().c_str(),
                matrix.fallback.empty() ? "" : "  # ", matrix.fallback.c_str());
  }
  std::printf("%ld bytes\n", static_cast<long>(out.format->TotalBytes(out.choice)));
  return absl::OkStatus();
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  const cvxq::Status status = cvxq::Run(argc, argv);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

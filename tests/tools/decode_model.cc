// Writes what an exported model holds, as we read it, as dense weights under the names of the
// original: what scripts hold against other programs.
//   decode_model ORIGINAL EXPORTED OUT.safetensors
#include <cstdio>
#include <string>
#include <vector>

#include "pipeline/model_files.h"
#include "storage/safetensors.h"

namespace cvxq {
namespace {

Status WriteDecoded(const std::string& original, const std::string& exported,
                    const std::string& path) {
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles from, OpenModel(original));
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles files, OpenModel(exported));
  std::vector<TensorEntry> entries;
  for (const std::string& name : from.checkpoint->names()) {
    if (const auto info = files.weights->Describe(name)) {
      entries.push_back({name, info->dtype, info->shape});
    }
  }
  CVXQ_ASSIGN_OR_RETURN(const auto writer,
                        SafetensorsWriter::Create(path, entries, {{"format", "pt"}}));
  for (const TensorEntry& entry : entries) {
    CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, files.weights->Dense(entry.name));
    CVXQ_RETURN_IF_ERROR(writer->Append({tensor.data, static_cast<size_t>(tensor.bytes())}));
  }
  return writer->Finish();
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: decode_model ORIGINAL EXPORTED OUT.safetensors\n");
    return 2;
  }
  const cvxq::Status status = cvxq::WriteDecoded(argv[1], argv[2], argv[3]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

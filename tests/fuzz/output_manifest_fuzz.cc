// Any bytes given to the reader of manifests: refused, or files with plain names that lie in the
// folder of their digest.
#include <cstdint>
#include <cstdlib>

#include "storage/output_manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto manifest =
      cvxq::OutputManifest::Parse({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!manifest.ok()) {
    if (manifest.status().code() != absl::StatusCode::kDataLoss) std::abort();
    return 0;
  }
  for (const auto& [name, file] : manifest->files) {
    const bool plain = !name.empty() && name.find('/') == std::string::npos && name != "..";
    if (!plain || file.size < 0 || file.sha256.size() != 64) std::abort();
  }
  const auto again = cvxq::OutputManifest::Parse(manifest->Serialize(), "fuzz");
  if (!again.ok() || again->files != manifest->files) std::abort();
  return 0;
}

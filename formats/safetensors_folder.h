// The folder that exports to safetensors formats write: one file of tensors or several with an
// index, small text files (config.json), and the companions of the checkpoint.
//
//   OUT/model.safetensors                             or
//   OUT/model-00001-of-0000K.safetensors ...  and  OUT/model.safetensors.index.json
#ifndef CVXQ_FORMATS_SAFETENSORS_FOLDER_H_
#define CVXQ_FORMATS_SAFETENSORS_FOLDER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "storage/checkpoint.h"
#include "storage/safetensors.h"

namespace cvxq {

// What will be written, drawn before a byte of it is there.
class SafetensorsFolder {
 public:
  using Append = std::function<Status(std::span<const std::byte> bytes)>;

  // `split_bytes` is the most that a file of tensors should have, 0 for one file; what belongs
  // together stays together.
  explicit SafetensorsFolder(int64_t split_bytes) : split_bytes_(split_bytes) {}

  // Tensors that are made together, and how: `write` gives their bytes, in order.
  void Add(std::vector<TensorEntry> tensors, std::function<Status(const Append&)> write);
  // A tensor of the checkpoint (which outlives this) as it is.
  void Copy(const Checkpoint& checkpoint, const std::string& name);
  void AddText(const std::string& name, std::string text) { texts_[name] = std::move(text); }
  // Those of CompanionFiles.
  void AddCompanions(const Checkpoint& checkpoint, std::map<std::string, int64_t> files);

  // Of all files, exactly.
  int64_t TotalBytes() const;
  // Into a folder that is there. Errors: those of the functions given to Add; disk.
  Status Write(const std::string& folder) const;

 private:
  struct Item {
    std::vector<TensorEntry> tensors;
    std::function<Status(const Append&)> write;
  };
  struct File {
    size_t begin = 0, end = 0;  // items
    std::string name;
    std::vector<TensorEntry> entries;
  };
  std::vector<File> Files() const;
  std::string Index(const std::vector<File>& files) const;  // empty if there is one file

  int64_t split_bytes_;
  std::vector<Item> items_;
  std::map<std::string, std::string> texts_;
  const Checkpoint* companions_of_ = nullptr;
  std::map<std::string, int64_t> companions_;
};

}  // namespace cvxq

#endif  // CVXQ_FORMATS_SAFETENSORS_FOLDER_H_

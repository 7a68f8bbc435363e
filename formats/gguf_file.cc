#include "formats/gguf_file.h"

#include <charconv>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

// "-00002-of-00005.gguf" at the end of a path.
struct SetName {
  std::string stem;
  int64_t index = 0, count = 0;
};
std::optional<SetName> ParseSetName(const std::string& path) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (path.size() <= kPattern.size()) return std::nullopt;
  const std::string_view tail = std::string_view(path).substr(path.size() - kPattern.size());
  for (size_t i = 0; i < tail.size(); ++i) {
    const bool digit = tail[i] >= '0' && tail[i] <= '9';
    if (kPattern[i] == '0' ? !digit : tail[i] != kPattern[i]) return std::nullopt;
  }
  SetName name{.stem = path.substr(0, path.size() - kPattern.size())};
  std::from_chars(tail.data() + 1, tail.data() + 6, name.index);
  std::from_chars(tail.data() + 10, tail.data() + 15, name.count);
  --name.index;
  return name;
}

}  // namespace

// Adds the other files of a set, whose first this is.
Status GgufFile::Join(std::vector<std::shared_ptr<const GgufFile>> parts) {
  parts_ = std::move(parts);
  const int64_t count = static_cast<int64_t>(parts_.size()) + 1;
  const auto number = [](const GgufFile& file, const char* key) {
    const GgufValue* value = file.Find(key);
    return value == nullptr ? int64_t{-1} : value->Integer().value_or(-1);
  };
  for (int64_t i = 0; i < count; ++i) {
    const GgufFile& part = i == 0 ? *this : *parts_[i - 1];
    if (number(part, "split.no") != i || number(part, "split.count") != count) {
      return absl::DataLossError(absl::StrCat("cannot use ", part.path_, ": it is no part ", i + 1,
                                              " of ", count,
                                              " by its split.no and split.count; download or write "
                                              "the set again"));
    }
    if (i == 0) continue;
    file_bytes_ += part.file_bytes_;
    for (const auto& [name, tensor] : part.tensors_) {
      if (!tensors_.emplace(name, tensor).second) {
        return absl::DataLossError(absl::StrCat("cannot use ", part.path_, ": tensor ",
                                                Quoted(name),
                                                " is in another file of the set too; "
                                                "download or write the set again"));
      }
    }
  }
  if (number(*this, "split.tensors.count") != static_cast<int64_t>(tensors_.size())) {
    return absl::DataLossError(
        absl::StrCat("cannot use ", path_, ": the set has ", tensors_.size(),
                     " tensors, not as many as split.tensors.count says; download or write the set "
                     "again"));
  }
  return absl::OkStatus();
}

StatusOr<std::shared_ptr<const GgufFile>> GgufFile::Parse(std::span<const std::byte> bytes,
                                                          std::string path) {
  std::shared_ptr<GgufFile> file(new GgufFile);
  file->path_ = std::move(path);
  if (const Status status = file->Read(bytes); !status.ok()) {
    return absl::DataLossError(absl::StrCat("cannot use ", file->path_, ": ", status.message(),
                                            "; download or write the file again"));
  }
  return file;
}

StatusOr<std::shared_ptr<const GgufFile>> GgufFile::Open(const std::string& path) {
  const auto open_one = [](const std::string& name) -> StatusOr<std::shared_ptr<GgufFile>> {
    CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<const MappedFile> map,
                          MappedFile::Open(name, "a GGUF file"));
    CVXQ_ASSIGN_OR_RETURN(const std::shared_ptr<const GgufFile> parsed, Parse(map->bytes(), name));
    std::shared_ptr<GgufFile> file = std::const_pointer_cast<GgufFile>(parsed);
    file->map_ = std::move(map);
    return file;
  };
  CVXQ_ASSIGN_OR_RETURN(std::shared_ptr<GgufFile> file, open_one(path));
  const GgufValue* split = file->Find("split.count");
  const int64_t count = split == nullptr ? 1 : split->Integer().value_or(-1);
  if (count == 0 || count == 1) return file;
  const std::optional<SetName> name = ParseSetName(path);
  if (!name || name->count != count || name->index < 0 || name->index >= count) {
    return absl::DataLossError(
        absl::StrCat("cannot use ", path, ": it is one of ", count,
                     " files, which its name does not say; name it NAME-00001-of-0000N.gguf"));
  }
  std::vector<std::shared_ptr<const GgufFile>> parts;
  std::shared_ptr<GgufFile> first;
  for (int64_t i = 0; i < count; ++i) {
    const std::string part = GgufFileName(name->stem, i, count);
    StatusOr<std::shared_ptr<GgufFile>> opened = i == name->index ? file : open_one(part);
    if (absl::IsNotFound(opened.status())) {
      return absl::NotFoundError(absl::StrCat("the part ", part,
                                              " of the set is missing; download "
                                              "it to where ",
                                              path, " lies"));
    }
    CVXQ_RETURN_IF_ERROR(opened.status());
    if (i == 0) {
      first = *std::move(opened);
    } else {
      parts.push_back(*std::move(opened));
    }
  }
  CVXQ_RETURN_IF_ERROR(first->Join(std::move(parts)));
  return first;
}

const GgufValue* GgufFile::Find(const std::string& key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

const GgufTensor* GgufFile::FindTensor(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

void GgufFile::Release(const GgufTensor& tensor) const {
  // The pages are the system's, whichever file of a set maps them.
  if (map_ != nullptr) map_->Release(tensor.bytes);
}

std::string GgufFileName(const std::string& name, int64_t index, int64_t count) {
  if (count == 1) return absl::StrCat(name, ".gguf");
  return absl::StrFormat("%s-%05d-of-%05d.gguf", name, index + 1, count);
}

}  // namespace cvxq

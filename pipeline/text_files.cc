#include "pipeline/text_files.h"

#include <fcntl.h>
#include <glob.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "nlohmann/json.hpp"
#include "storage/errors.h"
#include "storage/files.h"
#include "storage/folder.h"
#include "storage/object_store.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

constexpr double kMinWeight = 1e-9, kMaxWeight = 1e9;
constexpr double kMaxInvalidShare = 0.01;
constexpr int64_t kLargestTextObject = int64_t{256} << 20;

// nullopt for a suffix that is not known.
std::optional<TextFileKind> KindOf(const fs::path& path) {
  const std::string suffix = absl::AsciiStrToLower(path.extension().string());
  if (suffix == ".txt" || suffix == ".text" || suffix == ".md") return TextFileKind::kText;
  if (suffix == ".jsonl" || suffix == ".ndjson" || suffix == ".json") {
    return TextFileKind::kJsonLines;
  }
  if (suffix == ".npy" || suffix == ".safetensors") return TextFileKind::kTokens;
  return std::nullopt;
}

Status CheckWeight(const std::string& argument, double weight) {
  if (weight >= kMinWeight && weight <= kMaxWeight) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(argument, ": the weight after the colon must lie between 1e-9 and 1e9"));
}

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// `path` itself if it exists, otherwise what it matches as a pattern, sorted; empty if nothing.
std::vector<std::string> Match(const std::string& path) {
  if (Exists(path)) return {path};
  std::vector<std::string> matches;
  glob_t found = {};
  if (glob(path.c_str(), GLOB_NOSORT, nullptr, &found) == 0) {
    matches.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  }
  globfree(&found);
  // glob sorts by the locale; bytes sort alike everywhere.
  std::sort(matches.begin(), matches.end());
  return matches;
}

// All files of known kinds below `folder`, sorted.
StatusOr<std::vector<std::string>> FilesBelow(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    std::error_code ignored;  // a dangling link is neither a folder nor a file
    if (it->path().filename().string().starts_with(".")) {
      if (it->is_directory(ignored)) it.disable_recursion_pending();
    } else if (it->is_regular_file(ignored) && KindOf(it->path())) {
      files.push_back(it->path().string());
    }
  }
  if (error) return ErrnoStatus(error.value(), "cannot list", folder);
  if (files.empty()) {
    return absl::NotFoundError(absl::StrCat(
        folder,
        ": no text in this folder (.txt, .text, .md, .jsonl, .ndjson, .json, .npy, .safetensors); "
        "name files or a pattern"));
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Bytes of the well-formed UTF-8 character at text[i], 0 if there is none.
size_t CharacterBytes(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) {
    return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u;
  };
  const auto follows = [&](size_t k, unsigned low = 0x80, unsigned high = 0xbf) {
    return byte(k) >= low && byte(k) <= high;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return follows(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const unsigned low = lead == 0xe0 ? 0xa0 : 0x80, high = lead == 0xed ? 0x9f : 0xbf;
    return follows(1, low, high) && follows(2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const unsigned low = lead == 0xf0 ? 0x90 : 0x80, high = lead == 0xf4 ? 0x8f : 0xbf;
    return follows(1, low, high) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

Status CheckIsText(std::string_view text, const std::string& path) {
  constexpr const char* kRemedy =
      "; give UTF-8 text, JSON lines, or token ids in .npy or .safetensors";
  if (text.find('\0') != text.npos) {
    return absl::DataLossError(absl::StrCat(path, ": not text: it holds NUL bytes", kRemedy));
  }
  size_t invalid = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t bytes = CharacterBytes(text, i);
    if (bytes == 0) ++invalid;
    i += std::max<size_t>(bytes, 1);
  }
  if (static_cast<double>(invalid) > kMaxInvalidShare * static_cast<double>(text.size())) {
    return absl::DataLossError(absl::StrCat(path, ": not UTF-8 text: ", invalid, " of ",
                                            text.size(), " bytes are not valid", kRemedy));
  }
  return absl::OkStatus();
}

// `place` tells where the line is: "line 3".
StatusOr<std::string> DocumentOfLine(std::string_view line, const std::string& path,
                                     const std::string& field, const std::string& place) {
  nlohmann::json object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return absl::DataLossError(absl::StrCat(
        path, ": ", place,
        " is not a JSON object; write one object a line (jq -c '.[]' turns a list into lines)"));
  }
  const auto member = object.find(field);
  if (member == object.end() || !member->is_string()) {
    std::string strings;
    for (const auto& [name, value] : object.items()) {
      if (value.is_string() && strings.size() < 200) absl::StrAppend(&strings, " ", Quoted(name));
    }
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", place, " has no text in the field ", Quoted(field),
        "; name another with --calib-field (here:", strings.empty() ? " none" : strings, ")"));
  }
  return std::move(member->get_ref<std::string&>());
}

// `offset` is the place of `contents` in the file: lines are counted only from the start.
StatusOr<std::vector<std::string>> SplitDocuments(std::string contents, const TextFile& file,
                                                  const std::string& field, int64_t offset) {
  CVXQ_RETURN_IF_ERROR(CheckIsText(contents, file.path));
  std::vector<std::string> documents;
  if (file.kind == TextFileKind::kText) {
    if (!contents.empty()) documents.push_back(std::move(contents));
    return documents;
  }
  std::string_view rest = contents;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t at = static_cast<size_t>(rest.data() - contents.data());
    const size_t length = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, length);
    rest.remove_prefix(std::min(length + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string place =
        offset == 0 ? absl::StrCat("line ", number)
                    : absl::StrCat("the line at byte ", offset + static_cast<int64_t>(at));
    CVXQ_ASSIGN_OR_RETURN(std::string document, DocumentOfLine(line, file.path, field, place));
    if (!document.empty()) documents.push_back(std::move(document));
  }
  return documents;
}

// An object's place in a bucket: the store of what lies beside it, and its key there.
struct Place {
  std::unique_ptr<ObjectStore> store;
  std::string key;
};
StatusOr<Place> OpenPlace(const std::string& address) {
  const size_t slash = address.rfind('/');
  Place place;
  CVXQ_ASSIGN_OR_RETURN(place.store, OpenObjectStore(address.substr(0, slash)));
  place.key = address.substr(slash + 1);
  return place;
}

StatusOr<std::string> ReadWhole(const std::string& path) {
  if (!IsBucketAddress(path)) return ReadFile(path);
  CVXQ_ASSIGN_OR_RETURN(const Place place, OpenPlace(path));
  return place.store->ReadAll(place.key, kLargestTextObject);
}

StatusOr<std::string> ReadRange(const std::string& path, int64_t begin, int64_t end) {
  if (IsBucketAddress(path)) {
    CVXQ_ASSIGN_OR_RETURN(const Place place, OpenPlace(path));
    std::string bytes(static_cast<size_t>(end - begin), '\0');
    CVXQ_RETURN_IF_ERROR(
        place.store->Read(place.key, "", begin, std::as_writable_bytes(std::span(bytes))));
    return bytes;
  }
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoStatus(errno, "cannot read", path);
  std::string bytes(static_cast<size_t>(end - begin), '\0');
  size_t done = 0;
  Status status;
  while (done < bytes.size() && status.ok()) {
    const ssize_t count = pread(descriptor, bytes.data() + done, bytes.size() - done,
                                begin + static_cast<int64_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) status = ErrnoStatus(errno, "cannot read", path);
    if (count == 0) status = absl::DataLossError(absl::StrCat(path, ": shrank while it was read"));
    if (count > 0) done += static_cast<size_t>(count);
  }
  close(descriptor);
  CVXQ_RETURN_IF_ERROR(status);
  return bytes;
}

// The object, or all objects of known kinds below the address.
StatusOr<std::vector<ObjectInfo>> ObjectsAt(const std::string& address) {
  const size_t slash = address.rfind('/');
  const bool has_key = slash > std::string_view("s3://").size() && slash + 1 < address.size();
  std::vector<ObjectInfo> found;
  if (has_key) {
    CVXQ_ASSIGN_OR_RETURN(const Place place, OpenPlace(address));
    StatusOr<ObjectInfo> info = place.store->Head(place.key);
    if (!info.ok() && !absl::IsNotFound(info.status())) return info.status();
    if (info.ok()) {
      info->key = address;
      return std::vector<ObjectInfo>{*std::move(info)};
    }
  }
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store, OpenObjectStore(address));
  CVXQ_ASSIGN_OR_RETURN(std::vector<ObjectInfo> all, store->List(""));
  for (ObjectInfo& info : all) {
    const bool hidden = info.key.starts_with(".") || info.key.find("/.") != std::string::npos;
    if (hidden || !KindOf(info.key)) continue;
    info.key = absl::StrCat(store->address(), "/", info.key);
    found.push_back(std::move(info));
  }
  return found;
}

StatusOr<TextInput> FindInBucket(const std::string& argument) {
  TextInput input;
  input.path = argument;
  const size_t colon = argument.rfind(':');
  if (double weight; colon > std::string_view("s3").size() &&
                     absl::SimpleAtod(argument.substr(colon + 1), &weight)) {
    CVXQ_RETURN_IF_ERROR(CheckWeight(argument, weight));
    input.path = argument.substr(0, colon);
    input.weight = weight;
  }
  CVXQ_ASSIGN_OR_RETURN(std::vector<ObjectInfo> objects, ObjectsAt(input.path));
  if (objects.empty()) {
    return absl::NotFoundError(absl::StrCat(argument, ": no such object, and no text below it"));
  }
  for (ObjectInfo& info : objects) {
    const TextFileKind kind = KindOf(info.key).value_or(TextFileKind::kText);
    if (kind == TextFileKind::kTokens) {
      return absl::UnimplementedError(
          absl::StrCat(info.key, ": token ids are read from local files; copy it to this machine"));
    }
    input.files.push_back({std::move(info.key), kind, info.size});
  }
  return input;
}

}  // namespace

StatusOr<TextInput> FindTextInput(const std::string& address) {
  if (IsBucketAddress(address)) return FindInBucket(address);
  const std::string argument = address.starts_with("file://") ? address.substr(7) : address;
  TextInput input;
  input.path = argument;
  std::vector<std::string> matches;
  const size_t colon = argument.rfind(':');
  double weight = 0;
  if (colon != argument.npos && absl::SimpleAtod(argument.substr(colon + 1), &weight)) {
    matches = Match(argument.substr(0, colon));
    if (!matches.empty()) {
      CVXQ_RETURN_IF_ERROR(CheckWeight(argument, weight));
      input.path = argument.substr(0, colon);
      input.weight = weight;
    }
  }
  if (matches.empty()) matches = Match(argument);
  if (matches.empty()) {
    return absl::NotFoundError(
        absl::StrCat(argument, ": no such file or folder, and no file matches it as a pattern"));
  }
  for (const std::string& match : matches) {
    std::vector<std::string> paths = {match};
    std::error_code error;
    if (fs::is_directory(match, error)) {
      CVXQ_ASSIGN_OR_RETURN(paths, FilesBelow(match));
    }
    for (std::string& path : paths) {
      const uintmax_t bytes = fs::file_size(path, error);
      if (error) return ErrnoStatus(error.value(), "cannot read", path);
      const TextFileKind kind = KindOf(path).value_or(TextFileKind::kText);
      input.files.push_back({std::move(path), kind, static_cast<int64_t>(bytes)});
    }
  }
  return input;
}

StatusOr<std::vector<std::string>> ReadDocuments(const TextFile& file, const std::string& field) {
  CVXQ_ASSIGN_OR_RETURN(std::string contents, ReadWhole(file.path));
  return SplitDocuments(std::move(contents), file, field, 0);
}

StatusOr<std::vector<std::string>> ReadDocumentsInRange(const TextFile& file,
                                                        const std::string& field, int64_t begin,
                                                        int64_t end) {
  end = std::min(end, file.bytes);
  if (begin >= end) return std::vector<std::string>();
  // One byte more in front tells whether a line starts at `begin` itself.
  const int64_t first = std::max<int64_t>(begin - 1, 0);
  CVXQ_ASSIGN_OR_RETURN(std::string contents, ReadRange(file.path, first, end));

  const bool lines = file.kind == TextFileKind::kJsonLines;
  size_t from = 0, to = contents.size();
  if (begin > 0) {
    from = contents.find('\n') + 1;  // npos + 1 is 0
    if (from == 0 || (!lines && from > contents.size() / 2)) {
      if (lines) return std::vector<std::string>();
      from = 1;
      while (from < 4 && from < to && (contents[from] & 0xc0) == 0x80) ++from;
    }
  }
  if (end < file.bytes) {
    const size_t last = contents.rfind('\n');
    if (last != contents.npos && last + 1 > from && (lines || last >= contents.size() / 2)) {
      to = last + 1;
    } else if (lines) {
      return std::vector<std::string>();
    } else {
      // Drops a character that the end of the range cuts in two.
      size_t lead = to;
      while (lead > from && to - lead < 4 && (contents[lead - 1] & 0xc0) == 0x80) --lead;
      if (lead > from && (contents[lead - 1] & 0xc0) == 0xc0 &&
          CharacterBytes(contents, lead - 1) == 0) {
        to = lead - 1;
      }
    }
  }
  if (from >= to) return std::vector<std::string>();
  return SplitDocuments(contents.substr(from, to - from), file, field,
                        first + static_cast<int64_t>(from));
}

}  // namespace cvxq

#include "pipeline/token_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "storage/errors.h"
#include "storage/npy.h"
#include "storage/safetensors.h"

namespace cvxq {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 31;  // what a tokenizer promises to take
constexpr int64_t kCheckWholeBytes = int64_t{64} << 20;

bool HoldsIds(const HostTensor& tensor) {
  const bool integers = tensor.dtype == DType::kI32 || tensor.dtype == DType::kI64 ||
                        tensor.dtype == DType::kU16 || tensor.dtype == DType::kU32;
  return integers && (tensor.shape.rank() == 1 || tensor.shape.rank() == 2);
}

StatusOr<HostTensor> ChooseTensor(const SafetensorsFile& file, const std::string& name) {
  for (const std::string& wanted : {name, std::string("input_ids")}) {
    const HostTensor* tensor = file.Find(wanted);
    if (tensor != nullptr && HoldsIds(*tensor)) return *tensor;
  }
  const HostTensor* only = nullptr;
  std::string names;
  int found = 0;
  for (const auto& [other, tensor] : file.tensors()) {
    if (!HoldsIds(tensor)) continue;
    only = &tensor;
    if (++found <= 5) absl::StrAppend(&names, " ", Quoted(other));
  }
  if (found == 1) return *only;
  if (found == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": holds no token ids (I32, I64, U16 or U32 of one or two axes)"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file.path(), ": holds several tensors of integers (", names.substr(1),
                   found > 5 ? " ..." : "", "); name one with --calib-field"));
}

template <typename T>
int64_t Element(const std::byte* data, int64_t i) {
  T value;
  std::memcpy(&value, data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return static_cast<int64_t>(value);
}

int64_t Element(const HostTensor& array, int64_t i) {
  switch (array.dtype) {
    case DType::kI32:
      return Element<int32_t>(array.data, i);
    case DType::kI64:
      return Element<int64_t>(array.data, i);
    case DType::kU16:
      return Element<uint16_t>(array.data, i);
    default:
      return Element<uint32_t>(array.data, i);  // kU32: HoldsIds has seen to it
  }
}

}  // namespace

TokenStream::TokenStream(const Tokenizer& tokenizer, int64_t vocabulary)
    : tokenizer_(&tokenizer), vocabulary_(vocabulary) {
  const std::vector<int32_t> eos = tokenizer.eos();
  if (!eos.empty() && eos.front() < vocabulary) separator_ = eos.front();
}

void TokenStream::Append(Piece piece) {
  if (piece.size == 0) return;
  if (pieces_.empty()) row_ = piece.row;
  if (piece.row != row_) row_ = 0;
  if (!pieces_.empty() && row_ == 0 && separator_) {
    Piece separator;
    separator.begin = size_;
    separator.size = 1;
    separator.ids = {*separator_};
    ++size_;
    pieces_.push_back(std::move(separator));
  }
  piece.begin = size_;
  size_ += piece.size;
  pieces_.push_back(std::move(piece));
}

Status TokenStream::AppendText(std::string_view text, const std::string& path) {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": one document of more than 2 GiB; split the file"));
  }
  Piece piece;
  piece.path = path;
  piece.ids = tokenizer_->Encode(text, /*add_special_tokens=*/false);
  piece.size = static_cast<int64_t>(piece.ids.size());
  for (const int32_t id : piece.ids) {
    if (id >= 0 && id < vocabulary_) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": the tokenizer gives the id ", id, ", outside the model's vocabulary of ",
        vocabulary_, "; the tokenizer belongs to another model"));
  }
  Append(std::move(piece));
  return absl::OkStatus();
}

Status TokenStream::AppendFile(const std::string& path, const std::string& tensor) {
  Piece piece;
  piece.path = path;
  if (absl::EndsWithIgnoreCase(path, ".npy")) {
    CVXQ_ASSIGN_OR_RETURN(auto file, NpyFile::Open(path));
    piece.array = file->array();
    piece.owner = std::move(file);
  } else {
    CVXQ_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(path));
    CVXQ_ASSIGN_OR_RETURN(piece.array, ChooseTensor(*file, tensor));
    piece.owner = std::move(file);
  }
  piece.size = piece.array.shape.elements();
  if (piece.array.shape.rank() == 2) piece.row = piece.array.shape[1];
  if (piece.array.bytes() <= kCheckWholeBytes) {
    std::vector<int32_t> all(static_cast<size_t>(piece.size));
    CVXQ_RETURN_IF_ERROR(ReadPiece(piece, 0, all));
  }
  Append(std::move(piece));
  return absl::OkStatus();
}

Status TokenStream::ReadPiece(const Piece& piece, int64_t begin, std::span<int32_t> ids) const {
  if (!piece.owner) {
    std::copy_n(piece.ids.begin() + begin, ids.size(), ids.begin());
    return absl::OkStatus();
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t at = begin + static_cast<int64_t>(i);
    const int64_t id = Element(piece.array, at);
    if (id < 0 || id >= vocabulary_) {
      return absl::InvalidArgumentError(
          absl::StrCat(piece.path, ": the token id ", id, " at position ", at,
                       " is outside the model's vocabulary of ", vocabulary_,
                       "; the ids come from another tokenizer"));
    }
    ids[i] = static_cast<int32_t>(id);
  }
  return absl::OkStatus();
}

Status TokenStream::Read(int64_t begin, std::span<int32_t> ids) const {
  auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), begin,
                                [](int64_t at, const Piece& p) { return at < p.begin; });
  --piece;  // the last piece that begins at or before `begin`
  while (!ids.empty()) {
    const int64_t at = begin - piece->begin;
    const auto count = std::min(ids.size(), static_cast<size_t>(piece->size - at));
    CVXQ_RETURN_IF_ERROR(ReadPiece(*piece, at, ids.first(count)));
    ids = ids.subspan(count);
    begin += static_cast<int64_t>(count);
    ++piece;
  }
  return absl::OkStatus();
}

}  // namespace cvxq

// One long row of token ids, from texts and from files of ids, read at any place.
#ifndef CVXQ_PIPELINE_TOKEN_STREAM_H_
#define CVXQ_PIPELINE_TOKEN_STREAM_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/tokenizer.h"
#include "tensor/tensor.h"

namespace cvxq {

// Built by Append, then read; reading is safe from any thread.
class TokenStream {
 public:
  // Ids must lie in [0, vocabulary): the number of rows of the model's embedding. The tokenizer
  // must outlive the stream.
  TokenStream(const Tokenizer& tokenizer, int64_t vocabulary);

  // Adds a document. Between two pieces of the stream stands the tokenizer's first EOS id, if it
  // has one. kInvalidArgument if the tokenizer gives an id outside the vocabulary. `path` is for
  // messages.
  Status AppendText(std::string_view text, const std::string& path);

  // Adds the ids of a .npy or .safetensors file, row by row if they have two axes. Of several
  // tensors it takes the one named `tensor`, else "input_ids", else the only one of integers.
  // Small files are checked for ids outside the vocabulary at once, large ones where they are read.
  Status AppendFile(const std::string& path, const std::string& tensor);

  int64_t size() const { return size_; }
  // The row length if all pieces are arrays with rows of one length (no EOS stands between those),
  // 0 otherwise.
  int64_t row() const { return row_; }

  // Ids [begin, begin + ids.size()), which must lie in the stream.
  Status Read(int64_t begin, std::span<int32_t> ids) const;

 private:
  struct Piece {
    std::string path;
    int64_t begin = 0, size = 0, row = 0;
    std::vector<int32_t> ids;           // either these
    HostTensor array;                   // or this,
    std::shared_ptr<const void> owner;  // in this file
  };
  void Append(Piece piece);
  Status ReadPiece(const Piece& piece, int64_t begin, std::span<int32_t> ids) const;

  const Tokenizer* tokenizer_;
  int64_t vocabulary_;
  std::optional<int32_t> separator_;
  std::vector<Piece> pieces_;
  int64_t size_ = 0, row_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_TOKEN_STREAM_H_

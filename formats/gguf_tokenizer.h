// The tokenizer inside a GGUF file: tokens, their types, merges and scores, special ids.
#ifndef CVXQ_FORMATS_GGUF_TOKENIZER_H_
#define CVXQ_FORMATS_GGUF_TOKENIZER_H_

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "formats/gguf_file.h"
#include "formats/gguf_writer.h"
#include "model/tokenizer.h"
#include "storage/folder.h"

namespace cvxq {

// Adds what llama.cpp needs for the tokenizer of a checkpoint (its tokenizer.json): as many tokens
// as the token table has rows, padded with unused ones; tokens beyond the table are left out. Also
// adds all of tokenizer.json but vocabulary and merges, under a key of our own, so that
// TokenizerFromGguf gives the same tokenizer back. kUnimplemented for a tokenizer that llama.cpp
// cannot be told of, with the component; kNotFound, kDataLoss for the files.
Status AddGgufTokenizer(const Folder& folder, int64_t vocabulary, GgufMetadata& metadata);

// The file's tokenizer. Of files of others it is put together from what `tokenizer.ggml.pre` or
// SentencePiece's scores imply. kDataLoss, kUnimplemented with the file's path.
StatusOr<std::unique_ptr<const Tokenizer>> TokenizerFromGguf(const GgufFile& file);

}  // namespace cvxq

#endif  // CVXQ_FORMATS_GGUF_TOKENIZER_H_

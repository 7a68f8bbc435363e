// The calibration set: sequences of token ids that stand for the text a model will see.
//
//   CalibrationOptions options;
//   options.inputs = {"wiki.txt", "code/:2", "chat.jsonl:0.5"};
//   CVXQ_ASSIGN_OR_RETURN(CalibrationSet set, LoadCalibrationSet(options, *tokenizer, vocabulary));
//
// How a set is made; every choice is a function of the inputs and the seed alone:
// - Each input (one PATH[:WEIGHT], which may be a folder or a pattern of many files) is one stream
//   of tokens: its documents one after the other, joined by the EOS id if the tokenizer has one.
// - The samples are shared among the inputs in proportion to their weights (1 unless given, however
//   long the text), by largest remainder.
// - A sample is BOS, if the tokenizer has one, and the next seq_len - 1 tokens at a random place.
//   Samples of an input overlap only where its text is too short for all of them.
// - An input of arrays of ids [N, seq_len] alone is taken as ready sequences: rows are drawn
// whole
//   and get no BOS.
// - The inputs are mixed so evenly that any first part of the samples is a fair mix.
// - Of texts beyond whole_text_bytes only random parts, that begin and end at line ends, are read.
#ifndef CVXQ_PIPELINE_CALIBRATION_H_
#define CVXQ_PIPELINE_CALIBRATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/tokenizer.h"

namespace cvxq {

struct CalibrationOptions {
  std::vector<std::string> inputs;  // PATH[:WEIGHT], see text_files.h; none: the bundled text
  std::string field = "text";       // of JSON lines; of .safetensors the name of a tensor
  int64_t samples = 128;
  int64_t seq_len = 2048;
  uint64_t seed = 0;
  int64_t whole_text_bytes = int64_t{64} << 20;  // of one input
};

struct CalibrationSet {
  int64_t samples = 0, seq_len = 0;
  std::vector<int32_t> ids;  // [samples, seq_len]
  std::string description;   // one line: sizes, seed, and how many samples come from which input
  uint64_t hash = 0;         // of samples, seq_len and ids
};

// `vocabulary` is the number of rows of the model's embedding; all ids lie in [0, vocabulary).
// kInvalidArgument for options that make no set (no samples, text shorter than one sequence, ids of
// another tokenizer), kNotFound for a path, kDataLoss for a file that is not what it seems,
// kCancelled if interrupted.
StatusOr<CalibrationSet> LoadCalibrationSet(const CalibrationOptions& options,
                                            const Tokenizer& tokenizer, int64_t vocabulary);

// English text of about 290 KB (the King James Bible, parts) that the binary carries.
std::string BundledCalibrationText();

struct EvaluationSet {
  int64_t blocks = 0, seq_len = 0;
  std::vector<int32_t> ids;  // [blocks, seq_len]
  int64_t text_tokens = 0;   // of the whole text, without BOS
};

// Cuts one text the way the reference tools do: one stream of tokens, from its start blocks of BOS
// and the next seq_len - 1 tokens (seq_len tokens if the tokenizer has no BOS); what is left at the
// end is dropped. At most max_sequences blocks; 0 takes all. `path` is a file, folder or pattern as
// in text_files.h; a weight is ignored. Errors as above.
StatusOr<EvaluationSet> EvaluationBlocks(const Tokenizer& tokenizer, int64_t vocabulary,
                                         const std::string& path, int64_t seq_len,
                                         int64_t max_sequences, const std::string& field = "text");

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_CALIBRATION_H_

// The weights of a model folder in cvxq's own format: linears in one of three forms, everything
// else dense (docs/packed_format.md).
#ifndef CVXQ_PIPELINE_PACKED_WEIGHTS_H_
#define CVXQ_PIPELINE_PACKED_WEIGHTS_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "model/arch_spec.h"
#include "model/weights.h"
#include "quant/entropy_tables.h"
#include "quant/packed_format.h"
#include "storage/checkpoint.h"

namespace cvxq {

// How the tensors end that take the place of "<linear>.weight", ...
inline constexpr std::string_view kPackedSuffix = ".packed";
inline constexpr std::string_view kScaledSuffix = ".scaled";
inline constexpr std::string_view kAffineSuffix = ".affine";
// ... and those that linears in the packed and in the scaled form share.
inline constexpr std::string_view kTablesName = "cvxq.tables";
inline constexpr std::string_view kEntropyName = "cvxq.entropy";

// The forms of a linear: the alternatives of LinearCodes, in this order.
enum class LinearForm : uint8_t { kPacked, kScaled, kAffine };
inline constexpr std::array kFormSuffixes = {kPackedSuffix, kScaledSuffix, kAffineSuffix};

// The form that a tensor's name ends with, if any.
std::optional<LinearForm> FormOf(std::string_view name);
// Whether a tensor of this name is there for the quantised linears alone: their own and what they
// share. (In a checkpoint in cvxq's format; elsewhere names mean nothing.)
bool IsQuantizedTensor(std::string_view name);

class PackedWeights : public WeightSource {
 public:
  // Reads and checks what linears share; matrices are parsed when asked for, by `threads` threads.
  static StatusOr<std::unique_ptr<PackedWeights>> Open(std::shared_ptr<const Checkpoint> checkpoint,
                                                       int threads);
  // Says which linears there are and what their shapes must be; to be called before any is parsed,
  // as a lying shape could ask for any amount of memory. kDataLoss, with file and tensor, where one
  // that is not in the scaled form has another (a scaled one is refused when it is parsed), or has
  // two forms.
  Status Expect(const ArchSpec& spec);

  std::optional<TensorInfo> Describe(const std::string& name) const override;
  StatusOr<HostTensor> Dense(const std::string& name) const override;
  // Against the checksum in the file's metadata, each time it is called.
  Status Verify(const std::string& name) const override;
  bool IsPacked(const std::string& linear) const override;
  StatusOr<std::shared_ptr<const LinearCodes>> Packed(const std::string& linear) const override;
  void Release(const std::string& name) const override;

 private:
  PackedWeights(std::shared_ptr<const Checkpoint> checkpoint, int threads)
      : checkpoint_(std::move(checkpoint)), pool_(std::make_unique<ThreadPool>(threads)) {}
  Status ReadTables();
  Status ReadEntropy();
  StatusOr<LinearCodes> Parse(const HostTensor& tensor, LinearForm form, const Shape& shape) const;
  // The tensor that stands for a linear: its name; empty if the linear is dense.
  std::string CodedName(const std::string& linear) const;

  std::shared_ptr<const Checkpoint> checkpoint_;
  std::unique_ptr<ThreadPool> pool_;
  std::vector<TableSet> tables_;          // empty if no linear needs them
  std::optional<EntropyTables> entropy_;  // likewise
  std::map<std::string, Shape> shapes_;   // of linears
};

// The key in a file's metadata of the CRC-32 (8 hexadecimal digits) of a tensor that has none in
// its own bytes, and the value for such bytes.
std::string ChecksumKey(std::string_view name);
std::string ChecksumValue(std::span<const std::byte> bytes);

// The tables as the bytes of one tensor F32 [families, 510]: for each family the levels of depth 1,
// then 2, ... then 8.
std::vector<float> FlattenTables(const std::vector<TableSet>& families);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_PACKED_WEIGHTS_H_

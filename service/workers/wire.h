// What stages are told and what they answer, as messages, and messages in parts.
#ifndef CVXQ_SERVICE_WORKERS_WIRE_H_
#define CVXQ_SERVICE_WORKERS_WIRE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "cvxq/v1/worker_service.pb.h"
#include "google/rpc/status.pb.h"
#include "pipeline/stage.h"

namespace cvxq {

inline constexpr size_t kPartBytes = size_t{1} << 20;

// CRC-32 (zlib's).
uint32_t Checksum(const void* data, size_t size);

// Gives the parts of a serialised message in order.
void ForEachPart(const std::string& message, const std::function<void(v1::Part)>& take);

// Puts parts together again.
class PartJoiner {
 public:
  // True when the message is whole: it is then in `message()`. kDataLoss for parts that do not
  // follow each other, are damaged, or belong to a message beyond `limit`.
  StatusOr<bool> Add(const v1::Part& part);
  const std::string& message() const { return message_; }

 private:
  std::string message_;
  bool whole_ = false;
};

// What a stage job is on the wire, but for the blocks and whom it shares a worker with.
v1::StageSpec ToProto(const StageJob& job);
v1::StageOrder ToProto(const EntropyOrder& order);
v1::StageAnswer ToProto(const EntropyAnswer& answer);
v1::CodedLinear ToProto(const LinearPlan& plan);
// For FromRpcStatus. An error without a reason stays without one: the coordinator knows what its
// code means for a job.
google::rpc::Status ToProto(const Status& error);

// kDataLoss for what no stage can work with.
StatusOr<EntropyOrder> FromProto(const v1::StageOrder& order);
StatusOr<EntropyAnswer> FromProto(const v1::StageAnswer& answer);
// Fills what plans have "from coding".
Status FromProto(const v1::CodedLinear& linear, std::vector<LinearPlan>& plans);

// A stage's job as a worker has it: owns all that a StageJob refers to.
struct OwnedStageJob {
  QuantizeOptions options;
  ModelFiles files;
  CalibrationSet calibration;
  std::optional<StageJob> job;  // of the above
};
// Opens the checkpoint. kFailedPrecondition where it is not what the coordinator saw; as OpenModel.
StatusOr<std::unique_ptr<OwnedStageJob>> OpenStageJob(const v1::StageSpec& spec,
                                                      const std::string& spill_folder, int threads);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_WIRE_H_

// What a stage tells of its time, on the wire and in the coordinator's log.
#ifndef CVXQ_SERVICE_WORKERS_STAGE_TIMES_H_
#define CVXQ_SERVICE_WORKERS_STAGE_TIMES_H_

#include "cvxq/v1/worker_service.pb.h"
#include "pipeline/stage_times.h"

namespace cvxq {

// The tasks that there were.
void ToProto(const StageTimes& times, v1::Report::Done& done);

// One line at the beginning of a step: its kind, and the blocks of an order.
void LogStepBegins(const v1::Command& command);
// One line for each stage at its end: for each task its count and its seconds.
void LogStepDone(const v1::Report& report);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_STAGE_TIMES_H_

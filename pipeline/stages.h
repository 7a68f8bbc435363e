// All stages of a model, wherever they are: in this process (local_stages.h) or in others.
#ifndef CVXQ_PIPELINE_STAGES_H_
#define CVXQ_PIPELINE_STAGES_H_

#include <functional>
#include <memory>
#include <vector>

#include "base/progress.h"
#include "base/status.h"

namespace cvxq {

struct EntropyAnswer;  // entropy_rate.h
struct EntropyOrder;
class EntropyTables;  // quant/entropy_tables.h
struct LinearPlan;    // linear_plan.h
struct StageJob;      // stage.h

// The steps of a job in their order: Gradients, Moments, CarryOut for each order, Collect. The
// first failure stops all stages and is returned. Used from one thread at a time.
class Stages {
 public:
  virtual ~Stages() = default;

  virtual Status Gradients(Progress& progress) = 0;
  virtual Status Moments(Progress& progress) = 0;
  // What came of the order, over all its blocks.
  virtual StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, Progress::Phase& phase) = 0;
  // Corrects biases, and gives up what the stages have coded: fills the plans of the whole model.
  virtual Status Collect(const EntropyTables& tables, std::vector<LinearPlan>& plans) = 0;
};

// Tell of factorisations that took more damping than was asked for, if any did.
void NoteOutputDamping(double damping, Progress& progress);
void NoteInputDamping(double damping, double asked, Progress& progress);

// Makes the stages of a job; what it refers to outlives them. nullptr: in this process.
using MakeStages = std::function<StatusOr<std::unique_ptr<Stages>>(const StageJob& job)>;

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_STAGES_H_

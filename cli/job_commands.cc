// jobs, watch and cancel: what a client does with jobs that exist.
#include <cstdio>

#include "cli/job_view.h"
#include "cli/service_client.h"

namespace cvxq {
namespace {

class JobsCommand : public Command {
 public:
  explicit JobsCommand(CLI::App& app) {
    CLI::App* command = Declare(app, "jobs", "List the jobs of a coordinator, or show one",
                                "cvxq jobs --filter \"state = RUNNING\"");
    command->add_option("NAME", name_, "One job");
    command->add_option("--filter", filter_, "Which ones: \"state = QUEUED OR state = RUNNING\"");
    client_.Declare(command);
  }

  Status Run() override {
    CVXQ_ASSIGN_OR_RETURN(const ServiceClient client, ServiceClient::Open(client_));
    std::vector<Job> jobs;
    if (name_.empty()) {
      CVXQ_ASSIGN_OR_RETURN(jobs, client.List(filter_));
    } else {
      CVXQ_ASSIGN_OR_RETURN(const std::string name, client.JobName(name_));
      CVXQ_ASSIGN_OR_RETURN(jobs.emplace_back(), client.Get(name));
    }
    if (!common.json) {
      for (const Job& job : jobs) std::printf("%s\n", JobLine(job).c_str());
      return absl::OkStatus();
    }
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Job& job : jobs) list.push_back(JobJson(job));
    PrintJson(name_.empty() ? nlohmann::ordered_json{{"jobs", list}} : list[0]);
    return absl::OkStatus();
  }

 private:
  ClientFlags client_;
  std::string name_, filter_;
};

class WatchCommand : public Command {
 public:
  explicit WatchCommand(CLI::App& app) {
    CLI::App* command = Declare(app, "watch", "Follow a job until it ends", "cvxq watch llama");
    command->add_option("NAME", name_, "The job")->required();
    client_.Declare(command);
  }

  Status Run() override {
    CVXQ_ASSIGN_OR_RETURN(const ServiceClient client, ServiceClient::Open(client_));
    CVXQ_ASSIGN_OR_RETURN(const std::string name, client.JobName(name_));
    Progress progress(progress_mode());
    WatchView view(progress);
    CVXQ_ASSIGN_OR_RETURN(const Job job, client.Watch(name, [&view](const v1::JobEvent& event) {
      view.Show(event);
    }));
    if (common.json) {
      PrintJson(JobJson(job));
    } else {
      std::printf("%s\n", JobLine(job).c_str());
    }
    return OutcomeOf(job);
  }

 private:
  ClientFlags client_;
  std::string name_;
};

class CancelCommand : public Command {
 public:
  explicit CancelCommand(CLI::App& app) {
    CLI::App* command = Declare(app, "cancel", "Ask a job to stop", "cvxq cancel llama");
    command->add_option("NAME", name_, "The job")->required();
    client_.Declare(command);
  }

  Status Run() override {
    CVXQ_ASSIGN_OR_RETURN(const ServiceClient client, ServiceClient::Open(client_));
    CVXQ_ASSIGN_OR_RETURN(const std::string name, client.JobName(name_));
    CVXQ_ASSIGN_OR_RETURN(const Job job, client.Cancel(name));
    if (common.json) {
      PrintJson(JobJson(job));
    } else {
      std::printf("%s\n", JobLine(job).c_str());
    }
    return absl::OkStatus();
  }

 private:
  ClientFlags client_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Command> MakeJobsCommand(CLI::App& app) {
  return std::make_unique<JobsCommand>(app);
}
std::unique_ptr<Command> MakeWatchCommand(CLI::App& app) {
  return std::make_unique<WatchCommand>(app);
}
std::unique_ptr<Command> MakeCancelCommand(CLI::App& app) {
  return std::make_unique<CancelCommand>(app);
}

}  // namespace cvxq

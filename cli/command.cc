#include "cli/command.h"

#include <cstdio>
#include <cstdlib>
#include <map>

#include "service/errors.h"

namespace cvxq {

CLI::App* Command::Declare(CLI::App& app, const std::string& name, const std::string& description,
                           const std::string& example) {
  CLI::App* command = app.add_subcommand(name, description);
  command->add_flag("--json", common.json, "Print one JSON document on standard output");
  command->add_flag("--quiet", common.quiet, "No progress and no notes, only errors");
  command->add_flag("--verbose", common.verbose, "More detail");
  command->footer("Example:\n  " + example);
  return command;
}

void Command::AddThreads(CLI::App* command, int& threads) {
  constexpr int kMost = 1024;
  const auto check = [](const std::string& text) {
    char* end = nullptr;
    const int64_t value = std::strtoll(text.c_str(), &end, 10);
    if (*end == '\0' && value >= 1 && value <= kMost) return std::string();
    return absl::StrCat("must be a number from 1 to ", kMost, ", not ", text);
  };
  command->add_option("--threads", threads, "Threads (default: all)")
      ->check(CLI::Validator(check, ""));
}

void Command::AddBackend(CLI::App* command, BackendKind& backend) {
  AddChoice<BackendKind>(
      command, "--backend", backend,
      {{"auto", BackendKind::kAuto}, {"cpu", BackendKind::kCpu}, {"cuda", BackendKind::kCuda}},
      "auto (default: the GPU where there is one), cpu or cuda");
}

void Command::AddSource(CLI::App* command, std::string& model, std::string& output) {
  command
      ->add_option("MODEL", model, "Checkpoint (Hugging Face layout): folder or s3://BUCKET/PREFIX")
      ->required();
  command->add_option("-o,--output", output, "Folder or s3://BUCKET/PREFIX to make")->required();
}

CLI::Validator NotNegative() {
  return CLI::Validator(
      [](const std::string& text) {
        return text.starts_with('-') ? absl::StrCat("must not be negative, as ", text, " is") : "";
      },
      "");
}

int ExitCode(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
      return 2;
    case absl::StatusCode::kCancelled:
      return 130;
    case absl::StatusCode::kResourceExhausted:
      return ReasonOf(status).empty() ? 1 : 3;  // of this machine, or of the service
    default:
      return 1;
  }
}

StatusOr<std::string> StorageAddress(const std::string& address) {
  std::string path = address;
  if (path.starts_with("file://")) {
    path = path.substr(7);
  } else if (path.find("://") != std::string::npos && !path.starts_with("s3://")) {
    return absl::UnimplementedError(
        absl::StrCat(address, ": name a folder, file:///PATH or s3://BUCKET/PREFIX"));
  }
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.empty()) return absl::InvalidArgumentError("a folder's name is empty");
  return path;
}

void PrintJson(const nlohmann::ordered_json& json) {
  std::printf("%s\n",
              json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
}

}  // namespace cvxq

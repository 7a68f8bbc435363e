#include "service/api/grpc_log.h"

#include <grpc/support/log.h>

#include "service/log.h"
#include "service/utf8.h"

namespace cvxq {

void LogGrpcErrors() {
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
  gpr_set_log_function([](gpr_log_func_args* entry) {
    Log(LogLevel::kWarning, CleanUtf8(entry->message, 1024), {{"library", "grpc"}});
  });
}

void SilenceGrpc() {
  gpr_set_log_function([](gpr_log_func_args*) {});
}

}  // namespace cvxq

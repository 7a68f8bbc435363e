// Servers that do not tell their protocol.
#ifndef CVXQ_SERVICE_API_WITHOUT_REFLECTION_H_
#define CVXQ_SERVICE_API_WITHOUT_REFLECTION_H_

#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>

#include <memory>
#include <vector>

namespace cvxq {

// The library that has reflection switches it on for every server of a program that links it.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) {
      return plugin->name().find("reflection") != std::string::npos;
    });
  }
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_WITHOUT_REFLECTION_H_

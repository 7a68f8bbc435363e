// Certificates of both sides of the service's connections.
#ifndef CVXQ_SERVICE_API_CREDENTIALS_H_
#define CVXQ_SERVICE_API_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "base/status.h"

namespace cvxq {

// PEM texts. All three: TLS, and the other side needs a certificate of `authority`. None: plain, on
// loopback only.
struct TlsTexts {
  std::string certificate, key, authority;
};

// kInvalidArgument where they do not fit each other or the address (beyond loopback without).
StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const std::string& listen,
                                                                     const TlsTexts& tls);
std::shared_ptr<grpc::ChannelCredentials> ClientCredentials(const TlsTexts& tls);

// Whether only this machine can reach an address HOST:PORT.
bool IsLoopback(const std::string& listen);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_API_CREDENTIALS_H_

#include "service/api/credentials.h"

namespace cvxq {

StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const std::string& listen,
                                                                     const TlsTexts& tls) {
  const int given = !tls.certificate.empty() + !tls.key.empty() + !tls.authority.empty();
  if (given == 0 && IsLoopback(listen)) return grpc::InsecureServerCredentials();
  if (given == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", listen,
                     ": beyond loopback give --tls-cert, --tls-key and --tls-client-ca"));
  }
  if (given != 3) {
    return absl::InvalidArgumentError(
        "give --tls-cert, --tls-key and --tls-client-ca together, or none of them");
  }
  grpc::SslServerCredentialsOptions ssl(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = tls.authority;
  ssl.pem_key_cert_pairs.push_back({tls.key, tls.certificate});
  return grpc::SslServerCredentials(ssl);
}

std::shared_ptr<grpc::ChannelCredentials> ClientCredentials(const TlsTexts& tls) {
  if (tls.certificate.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = tls.authority;
  ssl.pem_cert_chain = tls.certificate;
  ssl.pem_private_key = tls.key;
  return grpc::SslCredentials(ssl);
}

bool IsLoopback(const std::string& listen) {
  const std::string host = listen.substr(0, listen.rfind(':'));
  return host == "localhost" || host == "[::1]" ||
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos);
}

}  // namespace cvxq

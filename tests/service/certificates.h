// Certificates for tests of TLS: authorities, and what they sign.
#ifndef CVXQ_TESTS_SERVICE_CERTIFICATES_H_
#define CVXQ_TESTS_SERVICE_CERTIFICATES_H_

#include <string>

namespace cvxq {

struct Certificate {
  std::string certificate, key;  // PEM
};

// An authority of its own.
Certificate MakeAuthority(const std::string& name);
// Signed by `authority`, for the host "localhost" too; valid from an hour ago until `hours` from
// now (negative: it has expired).
Certificate MakeCertificate(const Certificate& authority, const std::string& name, int hours);

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_CERTIFICATES_H_

// Where a bucket is and who asks, from an address and the environment.
//
//   AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL   http(s)://HOST[:PORT]; default: Amazon's own
//   AWS_REGION, else AWS_DEFAULT_REGION          default us-east-1
//   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY     both, or none: requests are not signed then
//   AWS_SESSION_TOKEN                            with temporary credentials
//   AWS_CA_BUNDLE                                file of certificates to trust, not the system's
//   CVXQ_S3_ADDRESSING                           path | virtual; default: path for an endpoint of
//                                                one's own and names with '.', else virtual
//
// These are read once, when the store is opened. Other sources that the AWS tools know (files below
// ~/.aws, metadata of machines and pods) are not asked.
#ifndef CVXQ_STORAGE_S3_S3_CONFIG_H_
#define CVXQ_STORAGE_S3_S3_CONFIG_H_

#include <string>

#include "base/status.h"
#include "storage/s3/sigv4.h"

namespace cvxq {

struct S3Config {
  std::string bucket;
  std::string prefix;    // empty or a good key (CheckKey)
  std::string endpoint;  // "https://host[:port]", of the bucket where addressing is virtual
  std::string host;      // of the endpoint, as the header `host` has it
  bool bucket_in_path = false;
  std::string region;
  S3Credentials credentials;
  std::string ca_bundle;  // empty: the system's

  std::string address() const { return "s3://" + bucket + (prefix.empty() ? "" : "/" + prefix); }
};

// `address` is s3://BUCKET[/PREFIX]. kInvalidArgument names what is wrong and never shows a secret.
StatusOr<S3Config> S3ConfigFromEnvironment(const std::string& address);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_S3_S3_CONFIG_H_

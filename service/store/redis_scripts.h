// The scripts that the Redis store runs inside the server. They are given all keys they touch and
// answer with an array whose first element is a word; see redis_store.h for the keys.
#ifndef CVXQ_SERVICE_STORE_REDIS_SCRIPTS_H_
#define CVXQ_SERVICE_STORE_REDIS_SCRIPTS_H_

#include <string>

namespace cvxq::redis_scripts {

// Of all writes: KEYS epochs, done, logs, requests, log, records (as far as a script needs them);
// ARGV sequence, epoch, then as written below. Answers FENCED newest, MISSING, LOST (the list of
// records does not fit its log), STALE (a newer write of the same client has been done), or

extern const std::string kClaim;  // epoch: the least to give; owner. OK epoch
extern const std::string
    kCreate;  // name, request, digest, records... OK | KNOWN name digest | EXISTS
extern const std::string kAppend;   // after, records...                 OK last | MOVED last
extern const std::string kCompact;  // through, snapshot                 OK | BEYOND last
extern const std::string kDelete;   // name                              OK

// KEYS log, records; ARGV after, limit.
// OK revision-of-the-first records | COMPACTED first | BEYOND last | MISSING | LOST
extern const std::string kRead;

}  // namespace cvxq::redis_scripts

#endif  // CVXQ_SERVICE_STORE_REDIS_SCRIPTS_H_

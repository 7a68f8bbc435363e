// The scripts that the Redis store runs inside the server. They are given all keys they touch and
// answer with an array whose first element is a word; see redis_store.h for the keys.
#ifndef CVXQ_SERVICE_STORE_REDIS_SCRIPTS_H_
#define CVXQ_SERVICE_STORE_REDIS_SCRIPTS_H_

#include <string>

namespace cvxq::redis_scripts {

// Of all writes: KEYS epochs, done, logs, requests, log, records (as far as a script needs them);
// ARGV sequence, acknowledged (the largest sequence whose answer has come), epoch, then as written
// below (of kClaim the epoch is the least to give). Answers FENCED newest, BACK (what was
// acknowledged is gone), MISSING, LOST (the list of records does not fit its log), STALE (a newer
// write of the same client has been done), or
//
//   kClaim    owner, held                                OK epoch
//   kCreate   name, request, digest, records...          OK | KNOWN name digest | EXISTS
//   kAppend   after, records...                          OK last | MOVED last
//   kCompact  through, snapshot                          OK | BEYOND last
//   kPut      name, request, digest, revision, snapshot  OK
//   kDelete   name                                       OK
//
// kClaim is FENCED only where `held` is not 0 and another client has claimed a newer one.
extern const std::string kClaim, kCreate, kAppend, kCompact, kPut, kDelete;

// KEYS log, records, epochs, done; ARGV after, limit, acknowledged.
// OK revision-of-the-first records | COMPACTED first | BEYOND last | BACK | MISSING | LOST
extern const std::string kRead;

}  // namespace cvxq::redis_scripts

#endif  // CVXQ_SERVICE_STORE_REDIS_SCRIPTS_H_

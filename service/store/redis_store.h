// A state store in a Redis server (5 or newer, one primary), reached without TLS: over a socket
// file, the loopback, or a tunnel.
//
//   cvxq:{cvxq}:epochs          hash: newest, holder (the client that claimed it, by its key
//   "done"),
//                               format, N -> owner for every epoch N, and for every client its key
//                               "done" -> the sequence number of its last write
//   cvxq:{cvxq}:logs            sorted set of the names of logs, all with the score 0
//   cvxq:{cvxq}:requests        hash: request id -> (name of its log, digest), as MessagePack
//   cvxq:{cvxq}:log:NAME        hash: first, last (revisions), request
//   cvxq:{cvxq}:records:NAME    list of records first ... last
//   cvxq:{cvxq}:done:CLIENT     (sequence number, answer) of the client's last write; kept one hour
//
// Every write is one script, so that it is done whole or not at all. A store numbers its writes and
// makes one at a time: a write whose reply was lost is sent again under its number and gives the
// answer that the first sending gave; one that arrives late, after a newer write of the same store,
// does nothing. So a caller gets the true outcome wherever the server is back within a few seconds,
// and kUnavailable (outcome unknown, until its next write succeeds) otherwise.
//
// Promised only as far as the server keeps its data: run it with `appendonly yes` and
// `appendfsync always`, no eviction, no unattended failover to a replica that lags behind.
// Loss is noticed, and can be made good by a store that lives on:
//   - a store sends with every call the number of its last write that was answered. A server that
//     does not know that number has been emptied (FLUSHALL) or has gone back in time (an older file
//     restored): until RenewEpoch it carries out nothing for this store;
//   - a log that has lost a key (eviction) answers kDataLoss;
//   - an epoch is never given twice by a process, and by different processes only if the server
//     forgets its epochs and its clock goes back as well: an epoch is at least the server's time in
//     milliseconds, one more than the newest it knows, and above all that the process has seen.
// A server that went back in time lets a store that was fenced since write again, until a new epoch
// is claimed: the coordinator that lives does so at once (JobStore::KeepEpoch).
#ifndef CVXQ_SERVICE_STORE_REDIS_STORE_H_
#define CVXQ_SERVICE_STORE_REDIS_STORE_H_

#include <memory>

#include "base/status.h"
#include "service/state_store.h"
#include "service/store/redis_connection.h"

namespace cvxq {

// Asks the server whether it can be used. kFailedPrecondition: it evicts keys when its memory is
// full, or a newer cvxq has written to it. Others as of RedisConnection::Call. The password comes
// from CVXQ_REDIS_PASSWORD.
StatusOr<std::unique_ptr<StateStore>> OpenRedisStore(const RedisAddress& address,
                                                     const RedisOptions& options);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STORE_REDIS_STORE_H_

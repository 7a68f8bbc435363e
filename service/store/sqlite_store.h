// A state store in one SQLite file (with PATH-wal and PATH-shm beside it while it is open).
//
//   epochs    epoch | owner, claimed (for people)      the newest epoch is the largest
//   logs      id | name, request_id, request_digest    request_id is null where there is none
//   records   log, revision | bytes                    revisions of a log follow one another
//
// user_version holds the version of this scheme, application_id says whose file it is. Names,
// request ids, digests and records are blobs: any bytes, compared as bytes.
//
// Durable: write-ahead log, synchronous=FULL: a call returns after fdatasync. Calls that come while
// the disk is busy share the next transaction and its flush (write_group.h), each of them in a
// savepoint of its own. Fenced, also between processes: every transaction takes the file's write
// lock and checks that the file still has its name (one that was moved away or deleted is not
// written to), and every write compares its epoch before it does anything. A failing disk stops the
// store: every later call fails too, because after a failed flush nobody knows what the disk holds;
// opening it anew reads what it does hold.
//
// An open store never goes back in time: where another file is put in the place of its own, it
// stops.
//
// Only for a local disk: network file systems lack the shared memory and locks that this needs.
#ifndef CVXQ_SERVICE_STORE_SQLITE_STORE_H_
#define CVXQ_SERVICE_STORE_SQLITE_STORE_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "service/state_store.h"

namespace cvxq {

// Makes the file, readable by its owner only, where there is none; checks it where there is.
// kNotFound: its folder. kPermissionDenied. kDataLoss: it is damaged. kFailedPrecondition: it is
// another program's, or a newer cvxq's. kUnavailable: another process holds it for more than 5 s.
StatusOr<std::unique_ptr<StateStore>> OpenSqliteStore(const std::string& path);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STORE_SQLITE_STORE_H_

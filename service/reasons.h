// Reasons of errors: what ErrorInfo.reason says in the domain "cvxq". Clients act on them, so they
// are kept for good. docs/service.md lists them with their meanings.
#ifndef CVXQ_SERVICE_REASONS_H_
#define CVXQ_SERVICE_REASONS_H_

namespace cvxq {

inline constexpr char kErrorDomain[] = "cvxq";

namespace reason {

// Of requests.
inline constexpr char kBadRequest[] = "BAD_REQUEST";
inline constexpr char kRequestIdReused[] = "REQUEST_ID_REUSED";
inline constexpr char kRequestTooLarge[] = "REQUEST_TOO_LARGE";
inline constexpr char kRateLimited[] = "RATE_LIMITED";
inline constexpr char kTooManyJobs[] = "TOO_MANY_JOBS";
inline constexpr char kTooManyWatches[] = "TOO_MANY_WATCHES";
inline constexpr char kTokenInvalid[] = "TOKEN_INVALID";
inline constexpr char kProjectDenied[] = "PROJECT_DENIED";
inline constexpr char kStorageDenied[] = "STORAGE_DENIED";
inline constexpr char kStorageUnsupported[] = "STORAGE_UNSUPPORTED";

// Of jobs.
inline constexpr char kJobNotFound[] = "JOB_NOT_FOUND";
inline constexpr char kJobExists[] = "JOB_EXISTS";
inline constexpr char kJobEnded[] = "JOB_ENDED";
inline constexpr char kJobNotEnded[] = "JOB_NOT_ENDED";
inline constexpr char kJobPublishing[] = "JOB_PUBLISHING";
inline constexpr char kJobCancelled[] = "JOB_CANCELLED";
inline constexpr char kJobChanged[] = "JOB_CHANGED";
inline constexpr char kJobDamaged[] = "JOB_DAMAGED";
inline constexpr char kWrongState[] = "WRONG_STATE";
inline constexpr char kAttemptOver[] = "ATTEMPT_OVER";
inline constexpr char kTooManyAttempts[] = "TOO_MANY_ATTEMPTS";
inline constexpr char kRevisionCompacted[] = "REVISION_COMPACTED";
inline constexpr char kRevisionUnknown[] = "REVISION_UNKNOWN";

// Of the work itself.
inline constexpr char kOptionsRefused[] = "OPTIONS_REFUSED";
inline constexpr char kFileNotFound[] = "FILE_NOT_FOUND";
inline constexpr char kFileDenied[] = "FILE_DENIED";
inline constexpr char kFileDamaged[] = "FILE_DAMAGED";
inline constexpr char kFileUnsuitable[] = "FILE_UNSUITABLE";
inline constexpr char kOutputExists[] = "OUTPUT_EXISTS";
inline constexpr char kSourceChanged[] = "SOURCE_CHANGED";
inline constexpr char kSourceUnsupported[] = "SOURCE_UNSUPPORTED";
inline constexpr char kOutOfResources[] = "OUT_OF_RESOURCES";
inline constexpr char kStorageUnavailable[] = "STORAGE_UNAVAILABLE";
inline constexpr char kWorkersGone[] = "WORKERS_GONE";

// Of the service.
inline constexpr char kNotLeader[] = "NOT_LEADER";
inline constexpr char kShuttingDown[] = "SHUTTING_DOWN";
inline constexpr char kStoreUnavailable[] = "STORE_UNAVAILABLE";
inline constexpr char kUnimplemented[] = "UNIMPLEMENTED";
inline constexpr char kInternal[] = "INTERNAL";

}  // namespace reason
}  // namespace cvxq

#endif  // CVXQ_SERVICE_REASONS_H_

#include "service/store/sqlite_store.h"

#include <mutex>
#include <utility>

#include "service/store/common.h"
#include "service/store/sqlite_file.h"
#include "service/store/write_group.h"

namespace cvxq {
namespace {

constexpr SqliteSchema kSchema = {.application_id = 0x63767871,  // "cvxq"
                                  .version = 1,
                                  .create = R"(
CREATE TABLE epochs(
  epoch INTEGER PRIMARY KEY,
  owner BLOB NOT NULL,
  claimed TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE logs(
  id INTEGER PRIMARY KEY,
  name BLOB NOT NULL UNIQUE,
  request_id BLOB UNIQUE,
  request_digest BLOB NOT NULL);
CREATE TABLE records(
  log INTEGER NOT NULL REFERENCES logs(id) ON DELETE CASCADE,
  revision INTEGER NOT NULL,
  bytes BLOB NOT NULL,
  PRIMARY KEY(log, revision));
)"};

constexpr size_t kMostWrites = 256;  // that share a flush

class SqliteStore : public StateStore {
 public:
  explicit SqliteStore(std::unique_ptr<SqliteFile> file) : file_(std::move(file)) {}

  StatusOr<int64_t> ClaimEpoch(const std::string& owner) override {
    return Claim(owner, [](int64_t) { return absl::OkStatus(); });
  }

  StatusOr<int64_t> RenewEpoch(int64_t epoch, const std::string& owner) override {
    return Claim(owner, [&](int64_t newest) {
      return newest > epoch ? FencedError(epoch, newest, file_->path()) : absl::OkStatus();
    });
  }

  StatusOr<int64_t> CurrentEpoch() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    int64_t epoch = 0;
    CVXQ_RETURN_IF_ERROR(file_->Read([&]() -> Status {
      CVXQ_ASSIGN_OR_RETURN(epoch, NewestEpoch());
      return absl::OkStatus();
    }));
    return epoch;
  }

  StatusOr<CreatedLog> CreateLog(int64_t epoch, const std::string& name,
                                 const std::string& request_id, const std::string& request_digest,
                                 const std::vector<std::string>& records) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckShort("a request id", request_id));
    CVXQ_RETURN_IF_ERROR(CheckShort("the digest of a request", request_digest));
    CVXQ_RETURN_IF_ERROR(CheckRecords(records));
    CreatedLog log = {name, true, request_digest};
    CVXQ_RETURN_IF_ERROR(WriteAs(epoch, [&]() -> Status {
      if (!request_id.empty()) {
        SqliteQuery known(*file_, "SELECT name, request_digest FROM logs WHERE request_id = ?");
        CVXQ_ASSIGN_OR_RETURN(const bool found, known.Bind(request_id).Next());
        if (found) {
          log = {known.Bytes(0), false, known.Bytes(1)};
          return absl::OkStatus();
        }
      }
      SqliteQuery taken(*file_, "SELECT 1 FROM logs WHERE name = ?");
      CVXQ_ASSIGN_OR_RETURN(const bool exists, taken.Bind(name).Next());
      if (exists) return LogExistsError(name, file_->path());
      CVXQ_ASSIGN_OR_RETURN(const int64_t id, InsertLog(name, request_id, request_digest));
      return Insert(id, 0, records);
    }));
    return log;
  }

  StatusOr<int64_t> Append(int64_t epoch, const std::string& name, int64_t after,
                           const std::vector<std::string>& records) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckRecords(records));
    CVXQ_RETURN_IF_ERROR(WriteAs(epoch, [&]() -> Status {
      CVXQ_ASSIGN_OR_RETURN(const int64_t id, FindLog(name));
      CVXQ_ASSIGN_OR_RETURN(const Range range, RangeOf(id, name));
      if (range.last != after) return NotLastError(name, after, range.last);
      return Insert(id, after, records);
    }));
    return after + static_cast<int64_t>(records.size());
  }

  StatusOr<std::vector<LogRecord>> Read(const std::string& name, int64_t after,
                                        int64_t limit) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckReadRange(after, limit));
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<LogRecord> records;
    CVXQ_RETURN_IF_ERROR(file_->Read([&]() -> Status {
      CVXQ_ASSIGN_OR_RETURN(const int64_t id, FindLog(name));
      CVXQ_ASSIGN_OR_RETURN(const Range range, RangeOf(id, name));
      if (after > range.last) return BeyondEndError(name, after, range.last);
      if (after > 0 && after < range.first - 1) return CompactedError(name, after, range.first);
      SqliteQuery query(*file_,
                        "SELECT revision, bytes FROM records WHERE log = ? AND revision > ?"
                        " ORDER BY revision LIMIT ?");
      query.Bind(id).Bind(after).Bind(limit);
      for (int64_t expected = std::max(after + 1, range.first);; ++expected) {
        CVXQ_ASSIGN_OR_RETURN(const bool row, query.Next());
        if (!row) return absl::OkStatus();
        if (query.Int(0) != expected) return HoleError(name, file_->path());
        records.push_back({expected, query.Bytes(1)});
      }
    }));
    return records;
  }

  Status Compact(int64_t epoch, const std::string& name, int64_t through,
                 const std::string& snapshot) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckRecords({snapshot}));
    return WriteAs(epoch, [&]() -> Status {
      CVXQ_ASSIGN_OR_RETURN(const int64_t id, FindLog(name));
      CVXQ_ASSIGN_OR_RETURN(const Range range, RangeOf(id, name));
      if (through > range.last) return BeyondEndError(name, through, range.last);
      if (through < range.first) return absl::OkStatus();
      CVXQ_RETURN_IF_ERROR(SqliteQuery(*file_, "DELETE FROM records WHERE log = ? AND revision < ?")
                               .Bind(id)
                               .Bind(through)
                               .Run());
      return SqliteQuery(*file_, "UPDATE records SET bytes = ? WHERE log = ? AND revision = ?")
          .Bind(snapshot)
          .Bind(id)
          .Bind(through)
          .Run();
    });
  }

  Status PutLog(int64_t epoch, const std::string& name, const std::string& request_id,
                const std::string& request_digest, const LogRecord& snapshot) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckShort("a request id", request_id));
    CVXQ_RETURN_IF_ERROR(CheckShort("the digest of a request", request_digest));
    CVXQ_RETURN_IF_ERROR(CheckSnapshot(snapshot));
    return WriteAs(epoch, [&]() -> Status {
      CVXQ_RETURN_IF_ERROR(Remove(name));
      CVXQ_RETURN_IF_ERROR(
          SqliteQuery(*file_, "UPDATE logs SET request_id = NULL WHERE request_id = ?")
              .Bind(request_id)
              .Run());
      CVXQ_ASSIGN_OR_RETURN(const int64_t id, InsertLog(name, request_id, request_digest));
      return Insert(id, snapshot.revision - 1, {snapshot.bytes});
    });
  }

  Status DeleteLog(int64_t epoch, const std::string& name) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    return WriteAs(epoch, [&] { return Remove(name); });
  }

  StatusOr<std::vector<std::string>> ListLogs(const std::string& prefix, const std::string& after,
                                              int64_t limit) override {
    CVXQ_RETURN_IF_ERROR(CheckReadRange(0, limit));
    const std::string end = PrefixEnd(prefix);
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> names;
    CVXQ_RETURN_IF_ERROR(file_->Read([&]() -> Status {
      SqliteQuery query(*file_,
                        "SELECT name FROM logs WHERE name >= ? AND name > ?"
                        " AND (?3 = x'' OR name < ?3) ORDER BY name LIMIT ?");
      query.Bind(prefix).Bind(after).Bind(end).Bind(limit);
      while (true) {
        CVXQ_ASSIGN_OR_RETURN(const bool row, query.Next());
        if (!row) return absl::OkStatus();
        names.push_back(query.Bytes(0));
      }
    }));
    return names;
  }

 private:
  struct Range {
    int64_t first = 0, last = 0;
  };

  StatusOr<int64_t> NewestEpoch() {
    SqliteQuery query(*file_, "SELECT max(epoch) FROM epochs");
    CVXQ_RETURN_IF_ERROR(query.Next().status());
    return query.Int(0);  // null, where there is none, reads as 0
  }

  StatusOr<int64_t> Claim(const std::string& owner,
                          const std::function<Status(int64_t newest)>& allowed) {
    CVXQ_RETURN_IF_ERROR(CheckShort("the owner of an epoch", owner));
    int64_t epoch = 0;
    CVXQ_RETURN_IF_ERROR(writes_.Do([&]() -> Status {
      CVXQ_ASSIGN_OR_RETURN(epoch, NewestEpoch());
      CVXQ_RETURN_IF_ERROR(allowed(epoch));
      ++epoch;
      return SqliteQuery(*file_, "INSERT INTO epochs(epoch, owner) VALUES (?, ?)")
          .Bind(epoch)
          .Bind(owner)
          .Run();
    }));
    return epoch;
  }

  // One write of the coordinator that holds `epoch`. Its body may run beside others in one
  // transaction, and only its outcome tells whether that came about.
  Status WriteAs(int64_t epoch, const std::function<Status()>& body) {
    return writes_.Do([&]() -> Status {
      CVXQ_ASSIGN_OR_RETURN(const int64_t newest, NewestEpoch());
      if (newest != epoch || epoch == 0) return FencedError(epoch, newest, file_->path());
      return body();
    });
  }

  StatusOr<int64_t> FindLog(const std::string& name) {
    SqliteQuery query(*file_, "SELECT id FROM logs WHERE name = ?");
    CVXQ_ASSIGN_OR_RETURN(const bool found, query.Bind(name).Next());
    if (!found) return NoLogError(name, file_->path());
    return query.Int(0);
  }

  StatusOr<Range> RangeOf(int64_t id, const std::string& name) {
    SqliteQuery query(*file_,
                      "SELECT (SELECT min(revision) FROM records WHERE log = ?1),"
                      " (SELECT max(revision) FROM records WHERE log = ?1)");
    CVXQ_RETURN_IF_ERROR(query.Bind(id).Next().status());
    const Range range = {query.Int(0), query.Int(1)};
    if (range.first < 1) return HoleError(name, file_->path());  // every log has a record
    return range;
  }

  Status Remove(const std::string& name) {
    return SqliteQuery(*file_, "DELETE FROM logs WHERE name = ?").Bind(name).Run();
  }

  StatusOr<int64_t> InsertLog(const std::string& name, const std::string& request_id,
                              const std::string& request_digest) {
    SqliteQuery insert(*file_,
                       "INSERT INTO logs(name, request_digest, request_id) VALUES (?, ?, ?)");
    insert.Bind(name).Bind(request_digest);
    request_id.empty() ? insert.BindNull() : insert.Bind(request_id);
    CVXQ_RETURN_IF_ERROR(insert.Run());
    return FindLog(name);
  }

  Status Insert(int64_t id, int64_t after, const std::vector<std::string>& records) {
    for (const std::string& record : records) {
      SqliteQuery query(*file_, "INSERT INTO records(log, revision, bytes) VALUES (?, ?, ?)");
      CVXQ_RETURN_IF_ERROR(query.Bind(id).Bind(++after).Bind(record).Run());
    }
    return absl::OkStatus();
  }

  std::mutex mutex_;  // of the file: one transaction at a time
  std::unique_ptr<SqliteFile> file_;
  WriteGroup writes_{[this](const std::vector<const WriteGroup::Write*>& writes) {
                       const std::lock_guard<std::mutex> lock(mutex_);
                       return file_->WriteAll(writes);
                     },
                     kMostWrites};
};

}  // namespace

StatusOr<std::unique_ptr<StateStore>> OpenSqliteStore(const std::string& path) {
  CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<SqliteFile> file, SqliteFile::Open(path, kSchema));
  return std::make_unique<SqliteStore>(std::move(file));
}

}  // namespace cvxq

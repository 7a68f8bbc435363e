#include "service/store/sqlite_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <mutex>
#include <system_error>
#include <thread>

#include "storage/atomic_file.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

constexpr int kBusyMs = 5000;

// Makes an empty file that only its owner may read; SQLite gives those beside it the same rights.
// Never opens a file that is there: closing it again would drop every lock that this process holds
// on it through another connection.
Status CreatePrivate(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (S_ISREG(info.st_mode)) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open ", path, ": it is no regular file; give the name of a file"));
  }
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) {
    return errno == EEXIST ? absl::OkStatus() : ErrnoStatus(errno, "cannot create", path);
  }
  close(descriptor);
  return SyncFolder(ParentFolder(path));
}

}  // namespace

StatusOr<std::unique_ptr<SqliteFile>> SqliteFile::Open(const std::string& path,
                                                       const SqliteSchema& schema) {
  std::unique_ptr<SqliteFile> file(new SqliteFile);
  file->path_ = path;
  // Another thread must not lock the new file before CreatePrivate has closed it.
  static std::mutex creating;
  {
    const std::lock_guard<std::mutex> lock(creating);
    CVXQ_RETURN_IF_ERROR(CreatePrivate(path));
  }
  CVXQ_RETURN_IF_ERROR(file->Connect());
  CVXQ_RETURN_IF_ERROR(file->CheckIntegrity());
  CVXQ_RETURN_IF_ERROR(file->UseSchema(schema));
  return file;
}

SqliteFile::~SqliteFile() {
  // After an error of the disk the write-ahead log is left as it is for whoever opens it next.
  if (!broken_.ok()) {
    sqlite3_db_config(connection_, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  }
  sqlite3_close(connection_);
}

Status SqliteFile::Connect() {
  // With "./" before it no name is one of SQLite's special ones (":memory:", "file:...").
  const std::string name = path_[0] == '/' ? path_ : "./" + path_;
  const int code = sqlite3_open_v2(name.c_str(), &connection_,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  if (code != SQLITE_OK) return Error("cannot open", code);
  sqlite3_extended_result_codes(connection_, 1);
  sqlite3_busy_timeout(connection_, kBusyMs);
  // The busy timeout does not cover the change to a write-ahead log while another process opens the
  // same new file.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(kBusyMs);
  while (true) {
    SqliteQuery query(*this, "PRAGMA journal_mode = WAL");
    const StatusOr<bool> row = query.Next();
    if (row.ok()) {
      if (query.Bytes(0) == "wal") break;
      return absl::FailedPreconditionError(absl::StrCat(
          "cannot open ", path_,
          ": this file system allows no write-ahead log; choose a place on a local disk"));
    }
    if ((sqlite3_errcode(connection_) & 0xff) != SQLITE_BUSY ||
        std::chrono::steady_clock::now() >= deadline) {
      return row.status();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return Run("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON");
}

Status SqliteFile::CheckIntegrity() {
  SqliteQuery query(*this, "PRAGMA quick_check(1)");
  CVXQ_ASSIGN_OR_RETURN(const bool row, query.Next());
  const std::string answer = row ? query.Bytes(0) : "no answer";
  if (answer == "ok") return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      path_, " is damaged (", Quoted(answer),
      "): restore it from a backup, or save what is left with the command `.recover` of sqlite3"));
}

Status SqliteFile::UseSchema(const SqliteSchema& schema) {
  return Write([&]() -> Status {
    CVXQ_ASSIGN_OR_RETURN(const int64_t application, Pragma("PRAGMA application_id"));
    CVXQ_ASSIGN_OR_RETURN(const int64_t version, Pragma("PRAGMA user_version"));
    CVXQ_ASSIGN_OR_RETURN(const int64_t tables, Pragma("SELECT count(*) FROM sqlite_schema"));
    if (application == 0 && version == 0 && tables == 0) {
      const std::string mark =
          absl::StrCat("PRAGMA application_id = ", schema.application_id,
                       "; PRAGMA user_version = ", schema.version, "; ", schema.create);
      return Run(mark.c_str());
    }
    if (application != schema.application_id) {
      return absl::FailedPreconditionError(absl::StrCat(
          "cannot use ", path_, ": it is another program's database; choose another file"));
    }
    if (version > schema.version) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot use ", path_, ": a newer cvxq has written it (version ", version,
                       ", this one knows ", schema.version, "); update cvxq"));
    }
    return absl::OkStatus();
  });
}

std::vector<Status> SqliteFile::WriteAll(
    const std::vector<const std::function<Status()>*>& bodies) {
  std::vector<Status> outcomes(bodies.size());
  const Status whole = Transaction("BEGIN IMMEDIATE", [&]() -> Status {
    CVXQ_RETURN_IF_ERROR(CheckPlace());
    for (size_t i = 0; i < bodies.size(); ++i) {
      CVXQ_RETURN_IF_ERROR(Run("SAVEPOINT one"));
      outcomes[i] = (*bodies[i])();
      if (!outcomes[i].ok()) {
        // Some errors of the disk have undone the whole transaction.
        if (!broken_.ok() || sqlite3_get_autocommit(connection_) != 0) return outcomes[i];
        CVXQ_RETURN_IF_ERROR(Run("ROLLBACK TO one"));
      }
      CVXQ_RETURN_IF_ERROR(Run("RELEASE one"));
    }
    return absl::OkStatus();
  });
  // Also those that failed by themselves: they may have failed because of what is undone now.
  if (!whole.ok()) outcomes.assign(bodies.size(), whole);
  return outcomes;
}

// A file that has lost its name is not written to.
Status SqliteFile::CheckPlace() {
  int moved = 0;
  sqlite3_file_control(connection_, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
  if (moved == 0) return absl::OkStatus();
  broken_ = absl::UnavailableError(
      absl::StrCat(path_, " was moved or deleted while it was open; put it back and start again"));
  return broken_;
}

Status SqliteFile::Read(const std::function<Status()>& body) { return Transaction("BEGIN", body); }

Status SqliteFile::Transaction(const char* begin, const std::function<Status()>& body) {
  CVXQ_RETURN_IF_ERROR(broken_);
  CVXQ_RETURN_IF_ERROR(Run(begin));
  Status status = body();
  if (status.ok()) status = Run("COMMIT");
  if (!status.ok() && sqlite3_get_autocommit(connection_) == 0) {
    sqlite3_exec(connection_, "ROLLBACK", nullptr, nullptr, nullptr);
  }
  return status;
}

Status SqliteFile::Run(const char* sql) {
  const int code = sqlite3_exec(connection_, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error("cannot use", code);
}

StatusOr<int64_t> SqliteFile::Pragma(const char* sql) {
  SqliteQuery query(*this, sql);
  CVXQ_RETURN_IF_ERROR(query.Next().status());
  return query.Int(0);
}

Status SqliteFile::Error(const std::string& action, int code) {
  const int extended = connection_ == nullptr ? code : sqlite3_extended_errcode(connection_);
  const int system = connection_ == nullptr ? 0 : sqlite3_system_errno(connection_);
  const std::string what =
      absl::StrCat(action, " ", path_, ": ", sqlite3_errstr(code), " (code ", extended,
                   system == 0 ? "" : ", " + std::generic_category().message(system), ")");
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(absl::StrCat(what, "; free some space there"));
    case SQLITE_NOMEM:
      return absl::ResourceExhaustedError(what);
    case SQLITE_BUSY:
      return absl::UnavailableError(absl::StrCat(what, "; another process holds it"));
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_READONLY:
      return absl::PermissionDeniedError(
          absl::StrCat(what, "; check the permissions of the file and of its folder"));
    case SQLITE_CANTOPEN:
      return Status(system == 0 ? absl::StatusCode::kUnavailable : absl::ErrnoToStatusCode(system),
                    absl::StrCat(what, "; check the path and its permissions"));
    case SQLITE_NOTADB:
      return absl::DataLossError(absl::StrCat(what, "; choose another file or restore a backup"));
    case SQLITE_CORRUPT:
      return absl::DataLossError(absl::StrCat(what, "; restore it from a backup"));
    case SQLITE_IOERR:
      broken_ = absl::UnavailableError(
          absl::StrCat(what, "; its state is unknown: check the disk, then start again"));
      return broken_;
    default:
      return absl::InternalError(absl::StrCat(what, ": ", sqlite3_errmsg(connection_)));
  }
}

SqliteQuery::SqliteQuery(SqliteFile& file, const char* sql) : file_(file) {
  code_ = sqlite3_prepare_v2(file.connection_, sql, -1, &statement_, nullptr);
}

SqliteQuery& SqliteQuery::Bind(int64_t value) {
  if (code_ == SQLITE_OK) code_ = sqlite3_bind_int64(statement_, ++bound_, value);
  return *this;
}

SqliteQuery& SqliteQuery::Bind(const std::string& bytes) {
  if (code_ == SQLITE_OK) {
    code_ = sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_STATIC);
  }
  return *this;
}

SqliteQuery& SqliteQuery::BindNull() {
  if (code_ == SQLITE_OK) code_ = sqlite3_bind_null(statement_, ++bound_);
  return *this;
}

StatusOr<bool> SqliteQuery::Next() {
  if (code_ == SQLITE_OK) {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    code_ = code;
  }
  return file_.Error("cannot use", code_);
}

Status SqliteQuery::Run() { return Next().status(); }

std::string SqliteQuery::Bytes(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return bytes == nullptr ? "" : std::string(static_cast<const char*>(bytes), size);
}

}  // namespace cvxq

// One connection to a SQLite file: opening with all checks, transactions, errors as Status.
#ifndef CVXQ_SERVICE_STORE_SQLITE_FILE_H_
#define CVXQ_SERVICE_STORE_SQLITE_FILE_H_

#include <sqlite3.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace cvxq {

// What makes a file one program's own.
struct SqliteSchema {
  int32_t application_id = 0;
  int version = 0;
  const char* create = nullptr;  // SQL that makes the tables in an empty file
};

// For one thread at a time.
class SqliteFile {
 public:
  // See OpenSqliteStore.
  static StatusOr<std::unique_ptr<SqliteFile>> Open(const std::string& path,
                                                    const SqliteSchema& schema);
  ~SqliteFile();
  SqliteFile(const SqliteFile&) = delete;
  SqliteFile& operator=(const SqliteFile&) = delete;

  const std::string& path() const { return path_; }

  // Runs the bodies one after another in one transaction that holds the write lock, and gives the
  // outcome of each: what a body does is durable once this returns OK for it, and undone where it
  // fails. Where the transaction fails, at its commit at the latest, all get its error and are
  // undone. After an error of the disk every later call gives that error.
  std::vector<Status> WriteAll(const std::vector<const std::function<Status()>*>& bodies);
  // The same with one.
  Status Write(const std::function<Status()>& body) { return WriteAll({&body})[0]; }
  // Runs `body` on one state of the file.
  Status Read(const std::function<Status()>& body);

 private:
  friend class SqliteQuery;

  SqliteFile() = default;
  Status Connect();
  Status UseSchema(const SqliteSchema& schema);
  Status CheckIntegrity();
  Status Transaction(const char* begin, const std::function<Status()>& body);
  Status CheckPlace();
  Status Run(const char* sql);
  StatusOr<int64_t> Pragma(const char* sql);
  // The error of the last call that used the connection, for people. Remembers one of the disk.
  Status Error(const std::string& action, int code);

  std::string path_;
  sqlite3* connection_ = nullptr;
  Status broken_;  // the first error of the disk
};

// One statement: bind its parameters in order, then take its rows. The columns of the current row
// are read by number from 0.
//
//   SqliteQuery query(file, "SELECT id FROM logs WHERE name = ?");
//   CVXQ_ASSIGN_OR_RETURN(const bool found, query.Bind(name).Next());
class SqliteQuery {
 public:
  SqliteQuery(SqliteFile& file, const char* sql);
  ~SqliteQuery() { sqlite3_finalize(statement_); }
  SqliteQuery(const SqliteQuery&) = delete;
  SqliteQuery& operator=(const SqliteQuery&) = delete;

  SqliteQuery& Bind(int64_t value);
  SqliteQuery& Bind(const std::string& bytes);  // a blob; `bytes` must outlive the query
  SqliteQuery& BindNull();
  // True: there is a (next) row.
  StatusOr<bool> Next();
  // For a statement that gives no rows.
  Status Run();

  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string Bytes(int column) const;

 private:
  SqliteFile& file_;
  sqlite3_stmt* statement_ = nullptr;
  int code_ = SQLITE_OK;  // of the first call that failed
  int bound_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_STORE_SQLITE_FILE_H_

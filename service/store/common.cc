#include "service/store/common.h"

#include "storage/errors.h"

namespace cvxq {
namespace {

int64_t Size(const std::string& text) { return static_cast<int64_t>(text.size()); }

}  // namespace

Status CheckLogName(const std::string& name) {
  if (name.empty()) return absl::InvalidArgumentError("the name of a log is empty");
  return CheckShort("the name of a log", name);
}

Status CheckShort(const std::string& what, const std::string& text) {
  if (Size(text) <= kLongestName) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " has ", text.size(), " bytes; at most ", kLongestName, " are possible"));
}

Status CheckRecords(const std::vector<std::string>& records) {
  const int64_t count = static_cast<int64_t>(records.size());
  if (count < 1 || count > kMostRecords) {
    return absl::InvalidArgumentError(
        absl::StrCat("a call writes ", count, " records; 1 to ", kMostRecords, " are possible"));
  }
  int64_t bytes = 0;
  for (const std::string& record : records) {
    if (Size(record) > kLargestRecord) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a record has ", record.size(), " bytes; at most ", kLargestRecord, " are possible"));
    }
    bytes += Size(record);
  }
  if (bytes > kLargestBatch) {
    return absl::InvalidArgumentError(absl::StrCat("the records of a call have ", bytes,
                                                   " bytes together; at most ", kLargestBatch,
                                                   " are possible: write them in several calls"));
  }
  return absl::OkStatus();
}

Status CheckSnapshot(const LogRecord& snapshot) {
  if (snapshot.revision < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a record has the revision ", snapshot.revision, "; the first is 1"));
  }
  return CheckRecords({snapshot.bytes});
}

Status CheckReadRange(int64_t after, int64_t limit) {
  if (after < 0 || limit < 1) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", limit,
                                                   " records after revision ", after,
                                                   ": the limit is at least 1, the revision 0"));
  }
  return absl::OkStatus();
}

Status FencedError(int64_t epoch, int64_t newest, const std::string& where) {
  if (newest == 0) {
    return absl::FailedPreconditionError(absl::StrCat("epoch ", epoch, " may not write to ", where,
                                                      ": it knows of no epoch; claim one"));
  }
  return absl::FailedPreconditionError(absl::StrCat("epoch ", epoch, " may not write to ", where,
                                                    ": its newest epoch is ", newest,
                                                    "; another coordinator has taken over"));
}

Status WentBackError(const std::string& where) {
  return absl::UnavailableError(absl::StrCat(
      where,
      " has lost writes that it had acknowledged: it was emptied, or started from an older file"));
}

Status NoLogError(const std::string& name, const std::string& where) {
  return absl::NotFoundError(absl::StrCat("no log ", Quoted(name), " in ", where));
}

Status LogExistsError(const std::string& name, const std::string& where) {
  return absl::AlreadyExistsError(
      absl::StrCat("log ", Quoted(name), " exists already in ", where, "; choose another name"));
}

Status NotLastError(const std::string& name, int64_t after, int64_t last) {
  return absl::AbortedError(absl::StrCat("the last revision of log ", Quoted(name), " is ", last,
                                         ", not ", after, "; read it and try again"));
}

Status CompactedError(const std::string& name, int64_t after, int64_t first) {
  return absl::OutOfRangeError(absl::StrCat("log ", Quoted(name), " begins with revision ", first,
                                            " now: what follows revision ", after,
                                            " has been compacted away; read it from the start"));
}

Status BeyondEndError(const std::string& name, int64_t revision, int64_t last) {
  return absl::OutOfRangeError(absl::StrCat("revision ", revision, " is beyond the last of log ",
                                            Quoted(name), ", which is ", last));
}

Status HoleError(const std::string& name, const std::string& where) {
  return absl::DataLossError(absl::StrCat("log ", Quoted(name), " in ", where,
                                          " lacks records; restore the store from a backup"));
}

std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

}  // namespace cvxq

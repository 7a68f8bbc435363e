// The places where the tests of state stores keep their data, one for each kind of store.
#ifndef CVXQ_TESTS_SERVICE_STORE_BACKENDS_H_
#define CVXQ_TESTS_SERVICE_STORE_BACKENDS_H_

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "service/state_store.h"
#include "tests/service/redis_server.h"
#include "tests/storage/test_files.h"

namespace cvxq {

// An empty place in a scratch folder: a file, or a server of its own.
class StoreBackend {
 public:
  // `kind`: "sqlite" or "redis".
  explicit StoreBackend(const std::string& kind) {
    if (kind == "redis") {
      server_ = std::make_unique<RedisServer>(folder_.path());
      address_ = server_->address();
    } else {
      address_ = "sqlite:" + folder_.File("state.db");
    }
  }
  const std::string& address() const { return address_; }
  // One more store on the same data. The test fails where it cannot be opened.
  std::unique_ptr<StateStore> Open() const {
    StatusOr<std::unique_ptr<StateStore>> store = OpenStateStore(address_);
    if (!store.ok()) ADD_FAILURE() << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  // kill -9 of whatever runs beside the stores, and a start on the same data.
  void CrashServer() {
    if (server_ == nullptr) return;
    server_->Kill();
    server_->Start();
  }

 private:
  TempFolder folder_;
  std::unique_ptr<RedisServer> server_;
  std::string address_;
};

// The records of a log, however many.
inline std::vector<std::string> Contents(StateStore& store, const std::string& name) {
  const StatusOr<std::vector<LogRecord>> records = store.Read(name, 0, int64_t{1} << 40);
  EXPECT_TRUE(records.ok()) << records.status();
  std::vector<std::string> contents;
  if (!records.ok()) return contents;
  for (const LogRecord& record : *records) {
    EXPECT_EQ(record.revision, records->front().revision + static_cast<int64_t>(contents.size()));
    contents.push_back(record.bytes);
  }
  return contents;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_SERVICE_STORE_BACKENDS_H_

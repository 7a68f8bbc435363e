#include "service/store/redis_store.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "service/store/common.h"
#include "service/store/redis_scripts.h"

namespace cvxq {
namespace {

constexpr char kPrefix[] = "cvxq:{cvxq}:";  // the braces put all keys in one slot of a cluster
constexpr int kFormat = 1;
constexpr int64_t kMostAtOnce = 1'000'000'000;  // numbers in scripts are exact far beyond

// The largest epoch that this process has seen, of any server.
std::atomic<int64_t> newest_seen = 0;

void Saw(int64_t epoch) {
  int64_t seen = newest_seen.load();
  while (seen < epoch && !newest_seen.compare_exchange_weak(seen, epoch)) {
  }
}

std::string Key(const std::string& name) { return kPrefix + name; }

std::string NewClientName() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x", random(), random(), random());
}

// An answer of a script: words, then perhaps a list.
class Answer {
 public:
  explicit Answer(RedisReply reply) : reply_(std::move(reply)) {}

  bool Is(const char* word) const { return Text(0) == word; }
  std::string Text(size_t i) const {
    const redisReply* element = Element(i);
    return element != nullptr && element->type == REDIS_REPLY_STRING
               ? std::string(element->str, element->len)
               : "";
  }
  int64_t Int(size_t i) const {
    int64_t value = 0;
    return absl::SimpleAtoi(Text(i), &value) ? value : 0;
  }
  const redisReply* List(size_t i) const {
    const redisReply* element = Element(i);
    return element != nullptr && element->type == REDIS_REPLY_ARRAY ? element : nullptr;
  }

 private:
  const redisReply* Element(size_t i) const {
    return reply_->type == REDIS_REPLY_ARRAY && i < reply_->elements ? reply_->element[i] : nullptr;
  }

  RedisReply reply_;
};

class RedisStore : public StateStore {
 public:
  RedisStore(const RedisAddress& address, const std::string& password, const RedisOptions& options)
      : connection_(address, password, options) {}

  // See OpenRedisStore.
  Status Check() {
    CVXQ_ASSIGN_OR_RETURN(const RedisReply info, connection_.Call({"INFO", "memory"}));
    const std::string text(info->str, info->len);
    if (!absl::StrContains(text, "maxmemory:0\r") &&
        !absl::StrContains(text, "maxmemory_policy:noeviction\r")) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot keep state in the Redis server at ", connection_.address(),
                       ": it drops keys when its memory is full; set maxmemory-policy noeviction"));
    }
    CVXQ_ASSIGN_OR_RETURN(const RedisReply reply,
                          connection_.Call({"HGET", Key("epochs"), "format"}));
    CVXQ_ASSIGN_OR_RETURN(const int64_t format, Number(*reply, "format"));
    if (format > kFormat) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot keep state in the Redis server at ", connection_.address(),
                       ": a newer cvxq has written to it (version ", format, ", this one knows ",
                       kFormat, "); update cvxq"));
    }
    return absl::OkStatus();
  }

  StatusOr<int64_t> ClaimEpoch(const std::string& owner) override { return Claim(0, owner); }

  StatusOr<int64_t> RenewEpoch(int64_t epoch, const std::string& owner) override {
    return Claim(epoch, owner);
  }

  StatusOr<int64_t> CurrentEpoch() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(const RedisReply reply,
                          connection_.Call({"HMGET", Key("epochs"), "newest", done_}));
    CVXQ_ASSIGN_OR_RETURN(const int64_t epoch, Number(*reply->element[0], "newest"));
    CVXQ_ASSIGN_OR_RETURN(const int64_t done, Number(*reply->element[1], done_));
    if (epoch <= claimed_ && done < acknowledged_) {
      return absl::DataLossError(WentBackError(Server()).message());
    }
    Saw(epoch);
    return epoch;
  }

  StatusOr<CreatedLog> CreateLog(int64_t epoch, const std::string& name,
                                 const std::string& request_id, const std::string& request_digest,
                                 const std::vector<std::string>& records) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckShort("a request id", request_id));
    CVXQ_RETURN_IF_ERROR(CheckShort("the digest of a request", request_digest));
    CVXQ_RETURN_IF_ERROR(CheckRecords(records));
    std::vector<std::string> arguments = {name, request_id, request_digest};
    arguments.insert(arguments.end(), records.begin(), records.end());
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(const Answer answer,
                          Write(redis_scripts::kCreate, epoch, name, arguments));
    if (answer.Is("OK")) return CreatedLog{name, true, request_digest};
    if (answer.Is("KNOWN")) return CreatedLog{answer.Text(1), false, answer.Text(2)};
    if (answer.Is("EXISTS")) return LogExistsError(name, connection_.address());
    return Refused(answer, epoch, name);
  }

  StatusOr<int64_t> Append(int64_t epoch, const std::string& name, int64_t after,
                           const std::vector<std::string>& records) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckRecords(records));
    std::vector<std::string> arguments = {absl::StrCat(after)};
    arguments.insert(arguments.end(), records.begin(), records.end());
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(const Answer answer,
                          Write(redis_scripts::kAppend, epoch, name, arguments));
    if (answer.Is("OK")) return answer.Int(1);
    if (answer.Is("MOVED")) return NotLastError(name, after, answer.Int(1));
    return Refused(answer, epoch, name);
  }

  StatusOr<std::vector<LogRecord>> Read(const std::string& name, int64_t after,
                                        int64_t limit) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckReadRange(after, limit));
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(
        RedisReply reply,
        connection_.CallScript(redis_scripts::kRead,
                               {Key("log:" + name), Key("records:" + name), Key("epochs"), done_},
                               {absl::StrCat(after), absl::StrCat(std::min(limit, kMostAtOnce)),
                                absl::StrCat(acknowledged_)}));
    const Answer answer(std::move(reply));
    if (answer.Is("BEYOND")) return BeyondEndError(name, after, answer.Int(1));
    if (answer.Is("COMPACTED")) return CompactedError(name, after, answer.Int(1));
    const redisReply* list = answer.List(2);
    if (!answer.Is("OK") || list == nullptr) return Refused(answer, 0, name);
    std::vector<LogRecord> records(list->elements);
    for (size_t i = 0; i < list->elements; ++i) {
      records[i].revision = answer.Int(1) + static_cast<int64_t>(i);
      records[i].bytes.assign(list->element[i]->str, list->element[i]->len);
    }
    return records;
  }

  Status Compact(int64_t epoch, const std::string& name, int64_t through,
                 const std::string& snapshot) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckRecords({snapshot}));
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(const Answer answer, Write(redis_scripts::kCompact, epoch, name,
                                                     {absl::StrCat(through), snapshot}));
    if (answer.Is("OK")) return absl::OkStatus();
    if (answer.Is("BEYOND")) return BeyondEndError(name, through, answer.Int(1));
    return Refused(answer, epoch, name);
  }

  Status PutLog(int64_t epoch, const std::string& name, const std::string& request_id,
                const std::string& request_digest, const LogRecord& snapshot) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    CVXQ_RETURN_IF_ERROR(CheckShort("a request id", request_id));
    CVXQ_RETURN_IF_ERROR(CheckShort("the digest of a request", request_digest));
    CVXQ_RETURN_IF_ERROR(CheckSnapshot(snapshot));
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(
        const Answer answer,
        Write(redis_scripts::kPut, epoch, name,
              {name, request_id, request_digest, absl::StrCat(snapshot.revision), snapshot.bytes}));
    return answer.Is("OK") ? absl::OkStatus() : Refused(answer, epoch, name);
  }

  Status DeleteLog(int64_t epoch, const std::string& name) override {
    CVXQ_RETURN_IF_ERROR(CheckLogName(name));
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(const Answer answer, Write(redis_scripts::kDelete, epoch, name, {name}));
    return answer.Is("OK") ? absl::OkStatus() : Refused(answer, epoch, name);
  }

  StatusOr<std::vector<std::string>> ListLogs(const std::string& prefix, const std::string& after,
                                              int64_t limit) override {
    CVXQ_RETURN_IF_ERROR(CheckReadRange(0, limit));
    const std::string end = PrefixEnd(prefix);
    const std::string from = after >= prefix ? "(" + after : "[" + prefix;
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(
        const RedisReply reply,
        connection_.Call({"ZRANGEBYLEX", Key("logs"), from, end.empty() ? "+" : "(" + end, "LIMIT",
                          "0", absl::StrCat(std::min(limit, kMostAtOnce))}));
    std::vector<std::string> names;
    for (size_t i = 0; i < reply->elements; ++i) {
      names.emplace_back(reply->element[i]->str, reply->element[i]->len);
    }
    return names;
  }

 private:
  StatusOr<int64_t> Number(const redisReply& reply, const std::string& field) const {
    int64_t value = 0;
    if (reply.type == REDIS_REPLY_NIL) return value;
    if (!absl::SimpleAtoi(absl::string_view(reply.str, reply.len), &value)) {
      return absl::DataLossError(absl::StrCat(Server(), " holds no number in ", Key("epochs"), " ",
                                              field, "; another program uses the same keys"));
    }
    return value;
  }

  StatusOr<int64_t> Claim(int64_t held, const std::string& owner) {
    CVXQ_RETURN_IF_ERROR(CheckShort("the owner of an epoch", owner));
    const std::lock_guard<std::mutex> lock(mutex_);
    CVXQ_ASSIGN_OR_RETURN(const Answer answer, Write(redis_scripts::kClaim, newest_seen.load() + 1,
                                                     "", {owner, absl::StrCat(held)}));
    if (answer.Is("FENCED")) return FencedError(held, answer.Int(1), connection_.address());
    const int64_t epoch = answer.Int(1);
    if (!answer.Is("OK") || epoch < 1) return Strange(answer);
    Saw(epoch);
    claimed_ = epoch;
    return epoch;
  }

  std::string Server() const { return absl::StrCat("the Redis server at ", connection_.address()); }

  // Runs a script that writes, under the next sequence number.
  StatusOr<Answer> Write(const std::string& script, int64_t epoch, const std::string& name,
                         const std::vector<std::string>& arguments) {
    std::vector<std::string> all = {absl::StrCat(++sequence_), absl::StrCat(acknowledged_),
                                    absl::StrCat(epoch)};
    all.insert(all.end(), arguments.begin(), arguments.end());
    CVXQ_ASSIGN_OR_RETURN(RedisReply reply, connection_.CallScript(
                                                script,
                                                {Key("epochs"), done_, Key("logs"), Key("requests"),
                                                 Key("log:" + name), Key("records:" + name)},
                                                all));
    Answer answer(std::move(reply));
    // Those that the server has written down with their number.
    for (const char* word : {"OK", "KNOWN", "EXISTS", "MOVED", "BEYOND"}) {
      if (answer.Is(word)) acknowledged_ = sequence_;
    }
    return answer;
  }

  Status Refused(const Answer& answer, int64_t epoch, const std::string& name) const {
    if (answer.Is("FENCED")) return FencedError(epoch, answer.Int(1), connection_.address());
    if (answer.Is("BACK")) return WentBackError(Server());
    if (answer.Is("MISSING")) return NoLogError(name, connection_.address());
    if (answer.Is("LOST")) return HoleError(name, connection_.address());
    return Strange(answer);
  }

  Status Strange(const Answer& answer) const {
    return absl::InternalError(absl::StrCat("strange answer \"", answer.Text(0),
                                            "\" from the Redis server at ", connection_.address()));
  }

  std::mutex mutex_;  // one call at a time: the sequence numbers need it, and one connection does
  RedisConnection connection_;
  const std::string done_ = Key("done:" + NewClientName());
  int64_t sequence_ = 0, acknowledged_ = 0;
  int64_t claimed_ = 0;  // the newest epoch that this store was given
};

}  // namespace

StatusOr<std::unique_ptr<StateStore>> OpenRedisStore(const RedisAddress& address,
                                                     const RedisOptions& options) {
  const char* password = std::getenv("CVXQ_REDIS_PASSWORD");
  auto store = std::make_unique<RedisStore>(address, password == nullptr ? "" : password, options);
  CVXQ_RETURN_IF_ERROR(store->Check());
  return store;
}

}  // namespace cvxq

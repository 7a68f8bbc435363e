// An S3 server inside the test: one bucket in memory, HTTP/1.1 on a port of the loopback, atomic
// conditional writes, signatures verified by code that shares nothing with the client's. It can be
// told to misbehave.
#ifndef CVXQ_TESTS_STORAGE_FAKE_S3_H_
#define CVXQ_TESTS_STORAGE_FAKE_S3_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "storage/s3/s3_config.h"

namespace cvxq {

enum class S3Op {
  kGet,
  kHead,
  kPut,
  kDelete,
  kList,
  kStartUpload,
  kPutPart,
  kListParts,
  kComplete,
  kAbort,
  kUnknown
};

// What goes wrong with one request.
struct S3Fault {
  enum Kind {
    kAnswer,       // this status and error code; the request is not done
    kErrorIn200,   // status 200, body an <Error> with this code; the request is not done
    kResetBefore,  // the connection is reset; the request is not done
    kResetAfter,   // the same, but it is done
    kLostReply,    // it is done; the connection ends in the middle of the headers
    kTruncated,    // it is done; half of the body comes
    kReplaced,     // as kTruncated; then the object is replaced by `text`
    kDrip,         // it is done; the body comes in small pieces
    kLate,         // it is done; the answer begins `status` milliseconds later
    kWrongLength,  // it is done; Content-Length is `status` larger than the body
    kRaw,          // these bytes are the answer; the request is not done
    kBody,         // an answer with `status` and these bytes; the request is not done
    kNoAnswer,     // none until the server ends
  };
  Kind kind;
  int status = 0;
  std::string text;  // code, bytes or body
};

// What the server makes of If-None-Match.
enum class S3Conditions { kAtomic, kIgnored, kLooksFirst, kRefused };

class FakeS3 {
 public:
  static constexpr char kBucket[] = "bucket";
  static constexpr char kSecret[] = "SecretSecret/+EXAMPLE";
  static constexpr char kToken[] = "TokenToken==EXAMPLE";

  FakeS3();
  ~FakeS3();

  // For clients, with good credentials.
  S3Config Config(const std::string& prefix) const;
  std::string endpoint() const;
  // Makes s3:// addresses lead here, for this process and those that it starts, as long as this
  // lives.
  void SetEnvironment();

  // The next `times` requests of this kind go wrong like this. Faults of one kind wait in a queue.
  void Break(S3Op op, const S3Fault& fault, int times = 1);
  void Mend(S3Op op);  // forgets the faults that wait
  // From now on about a third of the requests go wrong in ways that may pass. Which and how follows
  // from `seed` and from how many of its kind came before: every fourth of a kind goes well.
  void BreakAtRandom(uint64_t seed);
  // Requests of this kind on keys that begin like this are forbidden, all but the `first` ones.
  void Deny(S3Op op, const std::string& prefix, int first = 0);
  void set_conditions(S3Conditions conditions) { conditions_ = conditions; }
  void set_ignores_if_match() { ignores_if_match_ = true; }
  void set_ignores_range() { ignores_range_ = true; }

  void Put(const std::string& key, const std::string& bytes);  // the whole key
  void Remove(const std::string& key);
  std::map<std::string, std::string> objects() const;
  int unfinished_uploads() const;
  int count(S3Op op) const;                     // requests that came, also those that went wrong
  int faults() const;                           // requests that were made to go wrong
  int64_t body_bytes_sent() const;              // of answers to GET
  std::vector<std::string> complaints() const;  // bad signatures and requests

 private:
  struct Object {
    std::string bytes, etag, mark;
  };
  struct Upload {
    std::string key, mark;
    std::map<int, Object> parts;
  };
  struct Request {
    std::string method, target, path, key, body;
    std::map<std::string, std::string> query, headers;
    S3Op op = S3Op::kUnknown;
  };
  struct Answer {
    int status = 200;
    std::map<std::string, std::string> headers;
    std::string body;
  };
  struct Denial {
    std::string prefix;
    int first;  // that may pass
  };
  class Connection;

  void Accept();
  void Serve(int socket);
  bool ServeOne(Connection& connection);
  static S3Op Classify(const Request& request);
  // Counts the request; whether it is to go wrong, and how. With the lock.
  bool ChooseFault(const Request& request, S3Fault& fault);
  std::string SignatureError(const Request& request) const;
  void Send(Connection& connection, const Request& request, const Answer& answer,
            const S3Fault* fault);
  static Answer Error(int status, const std::string& code);

  Answer Do(const Request& request);
  Answer Get(const Request& request);
  Answer PutObject(const Request& request);
  Answer List(const Request& request);
  Answer StartUpload(const Request& request);
  Answer PutPart(const Request& request);
  Answer ListParts(const Request& request);
  Answer Complete(const Request& request);

  int listener_ = -1, port_ = 0;
  bool in_environment_ = false;
  std::thread acceptor_;
  S3Conditions conditions_ = S3Conditions::kAtomic;
  bool ignores_if_match_ = false, ignores_range_ = false;

  mutable std::mutex mutex_;  // of everything below
  std::condition_variable changed_;
  bool stop_ = false;
  std::set<int> sockets_;
  std::vector<std::thread> servers_;
  std::map<std::string, Object> objects_;
  std::map<std::string, Upload> uploads_;
  std::map<std::string, int> looking_;  // conditional writes under way, by key
  std::map<S3Op, std::deque<S3Fault>> faults_;
  std::map<S3Op, std::vector<Denial>> denials_;
  std::optional<uint64_t> seed_;  // of random faults
  std::map<S3Op, int> counts_;
  int faults_done_ = 0;
  int64_t body_bytes_sent_ = 0, uploads_started_ = 0;
  std::vector<std::string> complaints_;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_STORAGE_FAKE_S3_H_

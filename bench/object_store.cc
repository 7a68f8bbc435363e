// The claim: ObjectStore::Read of one large object from an S3 server reaches 90 % of the speed of
// 16 plain ranged GETs at once.
//
//   bench_object_store [MiB] [rounds] [ENDPOINT BUCKET KEY]
//
// The server is a process of its own on the loopback that sends from memory; with ENDPOINT
// (http://HOST:PORT) any server that gives KEY in BUCKET to everybody, for instance nginx. The
// plain way: 16 threads, each with a libcurl handle as it comes, each a sixteenth of the object,
// copied into one buffer. Both take turns; the least time of each counts.
#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/random.h"
#include "storage/s3/s3_store.h"

namespace cvxq {
namespace {

constexpr int kRequests = 16;

void Check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "bench_object_store: %s failed\n", what);
  std::exit(1);
}

// Answers HEAD and GET with Range on one connection with the bytes of the file `memory`.
void Serve(int client, int memory, int64_t size) {
  std::string pending;
  char buffer[8192];
  while (true) {
    size_t end;
    while ((end = pending.find("\r\n\r\n")) == std::string::npos) {
      const ssize_t n = recv(client, buffer, sizeof(buffer), 0);
      if (n <= 0) {
        close(client);
        return;
      }
      pending.append(buffer, n);
    }
    const std::string head = pending.substr(0, end);
    pending.erase(0, end + 4);
    long long first = 0, last = size - 1;
    size_t range = head.find("bytes=");
    if (range != std::string::npos) {
      Check(std::sscanf(head.c_str() + range, "bytes=%lld-%lld", &first, &last) == 2, "the range");
    }
    const int length =
        std::snprintf(buffer, sizeof(buffer),
                      "HTTP/1.1 %s\r\nETag: \"1\"\r\nContent-Range: bytes %lld-%lld/%lld\r\n"
                      "Content-Length: %lld\r\n\r\n",
                      range == std::string::npos ? "200 OK" : "206 Partial Content", first, last,
                      static_cast<long long>(size), last - first + 1);
    Check(send(client, buffer, length, MSG_NOSIGNAL) == length, "an answer");
    if (head.starts_with("HEAD")) continue;
    for (off_t at = first; at <= last;) {
      if (sendfile(client, memory, &at, last + 1 - at) <= 0) break;
    }
  }
}

// Starts the server's process; gives its address.
std::string StartServer(int64_t size) {
  const int memory = memfd_create("object", MFD_CLOEXEC);
  std::vector<uint64_t> block(1 << 17);  // 1 MiB
  for (int64_t at = 0; at < size; at += 1 << 20) {
    for (size_t i = 0; i < block.size(); ++i) block[i] = RandomBits(at, i);
    Check(write(memory, block.data(), 1 << 20) == 1 << 20, "memory");
  }
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  Check(bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
            listen(listener, 256) == 0 &&
            getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0,
        "listening");
  if (fork() == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) {
      const int client = accept(listener, nullptr, nullptr);
      if (client >= 0) std::thread(Serve, client, memory, size).detach();
    }
  }
  close(listener);
  return "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

size_t Copy(char* data, size_t, size_t size, void* user) {
  auto& place = *static_cast<std::byte**>(user);
  std::memcpy(place, data, size);
  place += size;
  return size;
}

void ReadPlain(const std::vector<CURL*>& handles, const std::string& url,
               std::span<std::byte> out) {
  std::vector<std::jthread> threads;
  for (int i = 0; i < kRequests; ++i) {
    threads.emplace_back([&, i] {
      const size_t begin = out.size() * i / kRequests, end = out.size() * (i + 1) / kRequests;
      std::byte* place = out.data() + begin;
      const std::string range = std::to_string(begin) + "-" + std::to_string(end - 1);
      curl_easy_setopt(handles[i], CURLOPT_URL, url.c_str());
      curl_easy_setopt(handles[i], CURLOPT_RANGE, range.c_str());
      curl_easy_setopt(handles[i], CURLOPT_WRITEFUNCTION, Copy);
      curl_easy_setopt(handles[i], CURLOPT_WRITEDATA, &place);
      Check(curl_easy_perform(handles[i]) == CURLE_OK && place == out.data() + end, "a plain GET");
    });
  }
}

double Seconds(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void Run(int64_t size, int rounds, S3Config config, const std::string& key) {
  if (config.endpoint.empty()) config.endpoint = StartServer(size);
  config.host = config.endpoint.substr(config.endpoint.find("://") + 3);
  const std::string url = config.endpoint + "/" + config.bucket + "/" + key;
  const auto store = OpenS3Store(config, {.parallel_requests = kRequests}).value();
  const auto info = store->Head(key);
  Check(info.ok() && info->size >= size, "finding the object");

  std::vector<CURL*> handles(kRequests);
  for (CURL*& handle : handles) handle = curl_easy_init();
  std::vector<std::byte> plain(size), ours(size);
  double plain_seconds = 1e9, our_seconds = 1e9;
  for (int round = 0; round < rounds; ++round) {
    plain_seconds =
        std::min(plain_seconds, Seconds([&] { ReadPlain(handles, url, std::span(plain)); }));
    our_seconds = std::min(our_seconds, Seconds([&] {
                             Check(store->Read(key, info->etag, 0, std::span(ours)).ok(), "Read");
                           }));
  }
  Check(plain == ours, "comparing what was read");
  for (CURL* handle : handles) curl_easy_cleanup(handle);
  std::printf("%lld MiB, least of %d rounds\n", static_cast<long long>(size >> 20), rounds);
  std::printf("  %d plain ranged GETs  %7.2f GB/s\n", kRequests, size / plain_seconds * 1e-9);
  std::printf("  ObjectStore::Read     %7.2f GB/s\n", size / our_seconds * 1e-9);
  std::printf("  ratio                 %7.2f\n", plain_seconds / our_seconds);
}

}  // namespace
}  // namespace cvxq

int main(int argc, char** argv) {
  const int64_t size = (argc > 1 ? std::atoll(argv[1]) : 256) << 20;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 10;
  if (size <= 0 || rounds <= 0 || (argc > 3 && argc != 6)) {
    std::fprintf(stderr, "usage: bench_object_store [MiB] [rounds] [ENDPOINT BUCKET KEY]\n");
    return 2;
  }
  cvxq::S3Config config = {.bucket = "bucket", .bucket_in_path = true, .region = "us-east-1"};
  if (argc == 6) {
    config.endpoint = argv[3];
    config.bucket = argv[4];
  }
  cvxq::Run(size, rounds, config, argc == 6 ? argv[5] : "object");
}

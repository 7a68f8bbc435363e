// Helpers of the storage tests: a scratch folder, raw files, and the look of a good error.
#ifndef CVXQ_TESTS_STORAGE_TEST_FILES_H_
#define CVXQ_TESTS_STORAGE_TEST_FILES_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include "base/status.h"

namespace cvxq {

// An empty folder that lives as long as the object.
class TempFolder {
 public:
  TempFolder() {
    std::string name = testing::TempDir() + "/cvxq_storage_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  // Number of files and folders directly inside.
  int Count() const {
    return static_cast<int>(std::distance(std::filesystem::directory_iterator(path_),
                                          std::filesystem::directory_iterator()));
  }

 private:
  std::string path_;
};

inline void Put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string Slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline std::span<const std::byte> AsBytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// The bytes of a safetensors file with this header and this much data.
inline std::string Safetensors(const std::string& header, size_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i));
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i + 1);
  return file;
}

// An error of this code whose one printable line holds `part`.
inline void ExpectError(const Status& status, absl::StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status;
  const std::string message(status.message());
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << message;
  EXPECT_LT(message.size(), 600u) << message;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_STORAGE_TEST_FILES_H_

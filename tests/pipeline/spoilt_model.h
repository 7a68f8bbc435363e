// A copy of a model with one weight that is not a number.
#ifndef CVXQ_TESTS_PIPELINE_SPOILT_MODEL_H_
#define CVXQ_TESTS_PIPELINE_SPOILT_MODEL_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "storage/checkpoint.h"

namespace cvxq {

// Copies the folder `from` to `to` and makes the first element of `tensor` (BF16) a NaN there.
inline void CopyWithNan(const std::string& from, const std::string& to, const std::string& tensor) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
  const auto checkpoint = Checkpoint::Open(to);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto weight = (*checkpoint)->Get(tensor);
  ASSERT_TRUE(weight.ok()) << weight.status();
  const std::string bytes(reinterpret_cast<const char*>(weight->data), 64);
  const std::string path = to + "/model.safetensors";
  std::string file(std::filesystem::file_size(path), '\0');
  std::ifstream(path, std::ios::binary)
      .read(file.data(), static_cast<std::streamsize>(file.size()));
  const size_t at = file.find(bytes);
  ASSERT_NE(at, std::string::npos);
  file[at] = static_cast<char>(0xc0), file[at + 1] = 0x7f;
  std::ofstream(path, std::ios::binary)
      .write(file.data(), static_cast<std::streamsize>(file.size()));
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_PIPELINE_SPOILT_MODEL_H_

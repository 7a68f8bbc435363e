// A model of tests/data/models with what transformers says about it.
#ifndef CVXQ_TESTS_MODEL_MODEL_TEST_UTIL_H_
#define CVXQ_TESTS_MODEL_MODEL_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "storage/safetensors.h"

namespace cvxq {

// CVXQ_TEST_DATA, where the sources are not on the machine.
inline std::string DataFolder() {
  const char* folder = std::getenv("CVXQ_TEST_DATA");
  return folder != nullptr ? folder : std::string(CVXQ_SOURCE_DIR) + "/tests/data/models/";
}

// The backends that a test program has: model/test_backends.cc, or cuda/test_backends.cc on a GPU.
std::vector<std::string> TestBackends();
std::unique_ptr<Backend> MakeTestBackend(const std::string& name);

// Every case of make_model_golden.py.
inline std::vector<std::string> AllCases() {
  return {"llama",  "llama_v4", "opt",   "opt_350m", "opt_plain", "mistral",
          "cohere", "cohere2",  "qwen2", "qwen3",    "gemma2",    "gemma3"};
}

template <typename T>
std::vector<T> ToHost(const Tensor& tensor, Backend& backend) {
  std::vector<T> host(tensor.shape.elements());
  backend.Download(tensor, host.data());
  return host;
}

// A float or compute tensor as floats.
inline std::vector<float> ToFloats(const Tensor& tensor, Backend& backend) {
  if (tensor.dtype == DType::kF32) return ToHost<float>(tensor, backend);
  Tensor wide = backend.Allocate(DType::kF32, tensor.shape);
  backend.Convert(tensor, wide);
  return ToHost<float>(wide, backend);
}

// A model folder, opened; the model reads it as long as this lives.
struct TestModel {
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::unique_ptr<DenseWeights> weights;
  std::unique_ptr<Model> model;

  static TestModel Open(const std::string& folder, const std::string& backend_name,
                        const ModelOptions& options = {}) {
    return Open(folder, MakeTestBackend(backend_name), options);
  }
  static TestModel Open(const std::string& folder, std::unique_ptr<Backend> backend,
                        const ModelOptions& options) {
    TestModel test;
    test.backend = std::move(backend);
    auto checkpoint = Checkpoint::Open(folder);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    test.checkpoint = *checkpoint;
    test.weights = std::make_unique<DenseWeights>(*checkpoint);
    auto spec = ParseArchSpec((*checkpoint)->config(), folder + "/config.json");
    EXPECT_TRUE(spec.ok()) << spec.status();
    auto model = Model::Load(*spec, *test.weights, options, *test.backend);
    EXPECT_TRUE(model.ok()) << model.status();
    test.model = std::move(*model);
    return test;
  }

  Tensor Ids(const std::vector<int32_t>& ids) const {
    Tensor tensor = backend->Allocate(DType::kI32, {static_cast<int64_t>(ids.size())});
    backend->Upload(ids.data(), tensor);
    return tensor;
  }

  // Logits [B*T, V] of ids [B*T].
  std::vector<float> Logits(const Wave& wave, const std::vector<int32_t>& ids) const {
    auto hidden = model->Forward(wave, Ids(ids));
    EXPECT_TRUE(hidden.ok()) << hidden.status();
    const Tensor logits = model->Logits(*hidden);
    EXPECT_TRUE(backend->Synchronize().ok());
    return ToHost<float>(logits, *backend);
  }
};

// The tensors of a golden file.
class Golden {
 public:
  explicit Golden(const std::string& path) {
    auto file = SafetensorsFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = *file;
  }
  const HostTensor& Get(const std::string& name) const {
    const HostTensor* found = file_->Find(name);
    EXPECT_NE(found, nullptr) << name;
    return *found;
  }
  std::vector<float> Floats(const std::string& name) const { return *cvxq::ToFloats(Get(name)); }
  std::vector<int32_t> Ints(const std::string& name) const {
    const HostTensor& tensor = Get(name);
    std::vector<int32_t> values(tensor.shape.elements());
    std::memcpy(values.data(), tensor.data, tensor.bytes());
    return values;
  }
  Wave wave() const { return {.B = Get("ids").shape[0], .T = Get("ids").shape[1]}; }

 private:
  std::shared_ptr<const SafetensorsFile> file_;
};

inline float LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    // A NaN counts as the largest of all.
    const float difference = std::abs(a[i] - b[i]);
    if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
  }
  return largest;
}

inline double NormOf(const std::vector<float>& a) {
  double sum = 0;
  for (const float value : a) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

// |a - b| / |b|.
inline double RelativeDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  if (a.size() != b.size()) return INFINITY;
  std::vector<float> difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return NormOf(difference) / NormOf(b);
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_MODEL_MODEL_TEST_UTIL_H_

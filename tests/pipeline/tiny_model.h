// A model of tests/data/models, small enough for exact statistics, and sequences for it.
#ifndef CVXQ_TESTS_PIPELINE_TINY_MODEL_H_
#define CVXQ_TESTS_PIPELINE_TINY_MODEL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "model/model.h"
#include "pipeline/calibration.h"
#include "pipeline/model_files.h"

namespace cvxq {

// A checkpoint with one tensor replaced by `value` everywhere.
class SpoiltWeights : public WeightSource {
 public:
  SpoiltWeights(const WeightSource& original, std::string name, float value)
      : original_(original), name_(std::move(name)) {
    shape_ = original.Describe(name_)->shape;
    values_.assign(shape_.elements(), value);
  }
  std::optional<TensorInfo> Describe(const std::string& name) const override {
    return name != name_ ? original_.Describe(name) : TensorInfo{DType::kF32, shape_};
  }
  StatusOr<HostTensor> Dense(const std::string& name) const override {
    if (name != name_) return original_.Dense(name);
    return HostTensor{{DType::kF32, shape_}, reinterpret_cast<const std::byte*>(values_.data())};
  }
  void Release(const std::string&) const override {}

 private:
  const WeightSource& original_;
  const std::string name_;
  Shape shape_;
  std::vector<float> values_;
};

struct TinyModel {
  ModelFiles files;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<WeightSource> spoilt;  // in place of files.weights, if set
  std::unique_ptr<Model> model;

  explicit TinyModel(const std::string& name, int threads = 2) {
    auto opened = OpenModel(std::string(CVXQ_SOURCE_DIR) + "/tests/data/models/" + name);
    EXPECT_TRUE(opened.ok()) << opened.status();
    files = *std::move(opened);
    backend = MakeCpuBackend(threads);
    Load();
  }
  void Spoil(const std::string& tensor, float value) {
    spoilt = std::make_unique<SpoiltWeights>(*files.weights, tensor, value);
    Load();
  }
  Tensor Floats(const std::vector<float>& values, Shape shape) const {
    Tensor tensor = backend->Allocate(DType::kF32, std::move(shape));
    backend->Upload(values.data(), tensor);
    return tensor;
  }
  std::vector<float> ToHost(const Tensor& tensor) const {
    std::vector<float> values(tensor.shape.elements());
    backend->Download(tensor, values.data());
    return values;
  }

 private:
  void Load() {
    auto loaded = Model::Load(files.spec, spoilt ? *spoilt : *files.weights, {}, *backend);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    model = *std::move(loaded);
  }
};

// Random ids; each sequence stands `copies` times one after the other.
inline CalibrationSet RandomSequences(const ArchSpec& spec, int64_t sequences, int64_t seq_len,
                                      int64_t copies = 1) {
  CalibrationSet set;
  set.samples = sequences * copies;
  set.seq_len = seq_len;
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    for (int64_t copy = 0; copy < copies; ++copy) {
      for (int64_t t = 0; t < seq_len; ++t) {
        const float u = RandomUniform(DeriveKey(7, sequence), t);
        set.ids.push_back(static_cast<int32_t>(u * static_cast<float>(spec.vocabulary)));
      }
    }
  }
  return set;
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_PIPELINE_TINY_MODEL_H_

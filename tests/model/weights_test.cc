// Broken checkpoints are refused with the tensor's name; other names and packed linears are read.
#include "model/weights.h"

#include <gmock/gmock.h>

#include <cstring>
#include <map>

#include "model_test_util.h"

namespace cvxq {
namespace {

using testing::HasSubstr;

// A checkpoint's tensors in memory, to be broken.
class MemoryWeights : public WeightSource {
 public:
  explicit MemoryWeights(const Checkpoint& checkpoint) {
    for (const std::string& name : checkpoint.names()) {
      const HostTensor host = *checkpoint.Get(name);
      tensors_[name] = {host.dtype, host.shape, {host.data, host.data + host.bytes()}};
    }
  }
  struct Stored {
    DType dtype;
    Shape shape;
    std::vector<std::byte> bytes;
  };
  Stored& operator[](const std::string& name) { return tensors_.at(name); }
  void Erase(const std::string& name) { tensors_.erase(name); }
  void RenameAll(const std::string& prefix) {
    std::map<std::string, Stored> renamed;
    for (auto& [name, tensor] : tensors_) {
      renamed[name.rfind(prefix, 0) == 0 ? name.substr(prefix.size()) : name] = std::move(tensor);
    }
    tensors_ = std::move(renamed);
  }
  void Pack(const std::string& linear, LinearCodes matrix) {
    Erase(linear + ".weight");
    packed_[linear] = std::make_shared<const LinearCodes>(std::move(matrix));
  }

  std::optional<TensorInfo> Describe(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return std::nullopt;
    return TensorInfo{found->second.dtype, found->second.shape};
  }
  StatusOr<HostTensor> Dense(const std::string& name) const override {
    return HostTensor{*Describe(name), tensors_.at(name).bytes.data()};
  }
  bool IsPacked(const std::string& linear) const override { return packed_.contains(linear); }
  StatusOr<std::shared_ptr<const LinearCodes>> Packed(const std::string& linear) const override {
    return packed_.at(linear);
  }
  void Release(const std::string&) const override {}

 private:
  std::map<std::string, Stored> tensors_;
  std::map<std::string, std::shared_ptr<const LinearCodes>> packed_;
};

class WeightsTest : public testing::Test {
 protected:
  void Open(const std::string& name) {
    const std::string folder = DataFolder() + name;
    auto checkpoint = Checkpoint::Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    weights_ = std::make_unique<MemoryWeights>(**checkpoint);
    auto spec = ParseArchSpec((*checkpoint)->config(), folder + "/config.json");
    ASSERT_TRUE(spec.ok()) << spec.status();
    spec_ = *spec;
  }

  // Loads the model and runs it; the first error.
  StatusOr<std::vector<float>> Run() {
    CVXQ_ASSIGN_OR_RETURN(auto model, Model::Load(spec_, *weights_, {}, *backend_));
    const std::vector<int32_t> ids = {5, 3, 60, 0, 17};
    const Tensor tensor = backend_->Allocate(DType::kI32, {5});
    backend_->Upload(ids.data(), tensor);
    CVXQ_ASSIGN_OR_RETURN(const Tensor hidden, model->Forward({.T = 5}, tensor));
    return ToHost<float>(model->Logits(hidden), *backend_);
  }

  void ExpectRefused(const std::string& tensor, const std::string& what,
                     absl::StatusCode code = absl::StatusCode::kDataLoss) {
    const auto result = Run();
    ASSERT_FALSE(result.ok()) << tensor;
    EXPECT_EQ(result.status().code(), code);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(tensor));
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(what));
    EXPECT_THAT(std::string(result.status().message()), Not(HasSubstr("\n")));
  }

  std::unique_ptr<Backend> backend_ = MakeReferenceBackend();
  std::unique_ptr<MemoryWeights> weights_;
  ArchSpec spec_;
};

TEST_F(WeightsTest, MissingTensorsAreNamed) {
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
        "model.layers.1.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight"}) {
    Open("llama");
    weights_->Erase(name);
    ExpectRefused(name, "is missing");
  }
  for (const char* name :
       {"model.decoder.embed_positions.weight", "model.decoder.layers.1.fc1.bias",
        "model.decoder.layers.0.final_layer_norm.bias", "model.decoder.project_in.weight"}) {
    Open("opt_350m");
    weights_->Erase(name);
    ExpectRefused(name, "is missing");
  }
  Open("qwen3");
  weights_->Erase("model.layers.1.self_attn.k_norm.weight");
  ExpectRefused("model.layers.1.self_attn.k_norm.weight", "is missing");
}

TEST_F(WeightsTest, WrongShapesAreNamed) {
  Open("llama");
  const std::string name = "model.layers.1.self_attn.k_proj.weight";
  (*weights_)[name].shape = {24, 16};
  ExpectRefused(name, "has shape [24, 16], but the config asks for [16, 24]");
  Open("llama");
  (*weights_)["model.norm.weight"].shape = {1, 24};
  ExpectRefused("model.norm.weight", "has shape [1, 24]");
}

TEST_F(WeightsTest, OtherTypesAreNamed) {
  Open("llama");
  (*weights_)["model.norm.weight"].dtype = DType::kI32;
  ExpectRefused("model.norm.weight", "has type I32", absl::StatusCode::kUnimplemented);
}

TEST_F(WeightsTest, ValuesThatAreNotFiniteAreFound) {
  // The first and the last element, in words and in the rest behind them, of every type.
  const auto spoil = [&](const std::string& model, const std::string& name, bool last,
                         uint32_t bits) {
    Open(model);
    MemoryWeights::Stored& tensor = (*weights_)[name];
    const int64_t size = ByteSize(tensor.dtype);
    std::memcpy(tensor.bytes.data() + (last ? tensor.bytes.size() - size : 0), &bits, size);
  };
  for (const bool last : {false, true}) {
    for (const uint32_t bits : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u}) {
      spoil("llama", "model.layers.1.mlp.up_proj.weight", last, bits);
      ExpectRefused("model.layers.1.mlp.up_proj.weight", "not finite");
    }
    for (const uint32_t bits : {0x7f80u, 0xff80u, 0x7fc0u, 0x7f81u}) {
      spoil("llama_v4", "model.embed_tokens.weight", last, bits);
      ExpectRefused("model.embed_tokens.weight", "not finite");
    }
    for (const uint32_t bits : {0x7c00u, 0xfc00u, 0x7e00u, 0x7c01u}) {
      spoil("opt_plain", "model.decoder.layers.0.fc2.weight", last, bits);
      ExpectRefused("model.decoder.layers.0.fc2.weight", "not finite");
    }
  }
  // The largest finite values are no fault.
  spoil("llama", "model.norm.weight", true, 0x7f7fffffu);
  EXPECT_TRUE(Run().ok());
  spoil("llama_v4", "model.layers.0.self_attn.q_proj.bias", true, 0xff7fu);
  EXPECT_TRUE(Run().ok());
  spoil("opt_plain", "model.decoder.layers.0.fc2.weight", true, 0xfbffu);
  EXPECT_TRUE(Run().ok());
}

TEST_F(WeightsTest, EveryElementIsLookedAt) {
  struct Type {
    DType dtype;
    uint32_t one, inf;
  };
  for (const auto& [dtype, one, inf] :
       {Type{DType::kF32, 0x3f800000u, 0x7f800000u}, Type{DType::kBF16, 0x3f80u, 0x7f80u},
        Type{DType::kF16, 0x3c00u, 0xfc00u}}) {
    Open("llama");
    const int64_t n = 7, size = ByteSize(dtype);  // not a whole number of words
    MemoryWeights::Stored& tensor = (*weights_)["model.norm.weight"];
    for (int64_t bad = -1; bad < n; ++bad) {
      tensor = {dtype, {n}, std::vector<std::byte>(n * size)};
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(tensor.bytes.data() + i * size, i == bad ? &inf : &one, size);
      }
      const auto loaded = LoadTensor(*weights_, "model.norm.weight", {n}, std::nullopt, *backend_);
      EXPECT_EQ(loaded.ok(), bad < 0) << std::string(Name(dtype)) << " " << bad;
    }
  }
}

TEST_F(WeightsTest, NamesMayLackTheFirstPart) {
  for (const char* model : {"llama", "opt"}) {
    Open(model);
    const auto wanted = Run();
    ASSERT_TRUE(wanted.ok()) << wanted.status();
    weights_->RenameAll("model.");
    const auto shorter = Run();
    ASSERT_TRUE(shorter.ok()) << shorter.status();
    EXPECT_EQ(*wanted, *shorter);
  }
}

TEST_F(WeightsTest, BiasBeyondTheConfigIsUsed) {
  Open("opt_plain");
  const auto without = Run();
  ASSERT_TRUE(without.ok()) << without.status();
  Open("opt");  // the same names, with biases
  spec_.bias = {};
  const auto with = Run();
  ASSERT_TRUE(with.ok()) << with.status();
  for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
    weights_->Erase(absl::StrCat("model.decoder.layers.0.self_attn.", name, ".bias"));
  }
  const auto fewer = Run();
  ASSERT_TRUE(fewer.ok()) << fewer.status();
  EXPECT_NE(*with, *fewer);
}

// Four bits each, a table for all, one cluster of rows.
PackedMatrix SmallPacked(int64_t M, int64_t N) {
  PackedMatrix matrix;
  matrix.rows = M;
  matrix.columns = N;
  matrix.cluster_size = M;
  for (int64_t i = 0; i < M; ++i) matrix.members.push_back(i);
  matrix.depth.assign(N, 4);
  matrix.scale.assign(N, 0.1f);
  for (int i = 0; i < 16; ++i) matrix.table[4].push_back((i - 7.5f) / 4);
  std::vector<uint8_t> codes(M * N);
  for (int64_t i = 0; i < M * N; ++i) codes[i] = (i * 7 + i / 5) % 16;
  PackCodes(codes, matrix);
  return matrix;
}

// The same values every time, of all codes that a byte holds, and two outliers.
ScaledMatrix SmallScaled(int64_t M, int64_t N) {
  ScaledMatrix matrix{.rows = M, .columns = N};
  for (int64_t i = 0; i < M * N; ++i) matrix.codes.push_back(static_cast<int8_t>(i * 37 + i / 7));
  for (int64_t r = 0; r < M; ++r) matrix.row_scale.push_back(0.002f + 0.0001f * (r % 5));
  for (int64_t c = 0; c < N; ++c) matrix.column_scale.push_back(0.5f + 0.25f * (c % 3));
  matrix.outliers = {{1, 2, -300}, {3, 0, 150}};
  for (const ScaledOutlier& o : matrix.outliers) matrix.codes[o.row * N + o.column] = 0;
  return matrix;
}

// Three bits in groups of 8, with column scales and a kept column.
AffineMatrix SmallAffine(int64_t M, int64_t N) {
  AffineMatrix matrix{.rows = M, .columns = N, .bits = 3, .group = 8};
  for (int64_t i = 0; i < M * N; ++i) {
    matrix.codes.push_back(i % N == 4 ? 0 : static_cast<uint8_t>((i * 5 + i / 11) % 8));
  }
  for (int64_t g = 0; g < M * matrix.group_count(); ++g) {
    matrix.scale.push_back(0.0625f * static_cast<float>(1 + g % 3));
    matrix.zero.push_back(3 + g % 2);
  }
  matrix.column_scale.assign(N, 0.75f);
  matrix.kept_columns = {4};
  for (int64_t r = 0; r < M; ++r) matrix.kept.push_back(0.125f * static_cast<float>(r % 4));
  return matrix;
}

TEST_F(WeightsTest, QuantisedLinearsGiveWhatTheirDecodedMatricesGive) {
  const std::string linear = "model.layers.1.mlp.up_proj";
  const LinearCodes forms[] = {SmallPacked(28, 24), SmallScaled(28, 24), SmallAffine(28, 24)};
  const LinearCodes turned[] = {SmallPacked(24, 28), SmallScaled(24, 28), SmallAffine(24, 28)};
  for (size_t form = 0; form < std::size(forms); ++form) {
    SCOPED_TRACE(form);
    Open("llama");
    const Status valid =
        std::visit([](const auto& matrix) { return matrix.Validate(); }, forms[form]);
    ASSERT_TRUE(valid.ok()) << valid;
    const auto original = Run();
    ASSERT_TRUE(original.ok()) << original.status();
    const std::vector<float> decoded = Decode(forms[form]);
    std::memcpy((*weights_)[linear + ".weight"].bytes.data(), decoded.data(), 4 * decoded.size());
    const auto dense = Run();
    ASSERT_TRUE(dense.ok()) << dense.status();
    EXPECT_GT(LargestDifference(*dense, *original), 1e-3f);
    weights_->Pack(linear, forms[form]);
    const auto result = Run();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_LT(LargestDifference(*result, *dense), 1e-5f);

    weights_->Pack(linear, turned[form]);
    ExpectRefused(linear, "is packed as [24, 28], but the config asks for [28, 24]");
  }
}

TEST_F(WeightsTest, IdsAndPositionsOutsideTheModelAreRefused) {
  const TestModel test = TestModel::Open(DataFolder() + "opt", "reference");
  for (const int32_t id : {-1, 61}) {
    const auto x = test.model->Embed({.T = 2}, test.Ids({3, id}));
    EXPECT_EQ(x.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(x.status().message()),
                HasSubstr(absl::StrCat("token id ", id, " is outside")));
  }
  EXPECT_TRUE(test.model->Embed({.T = 1, .position = 63}, test.Ids({3})).ok());
  const auto x = test.model->Embed({.T = 2, .position = 63}, test.Ids({3, 4}));
  EXPECT_EQ(x.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(x.status().message()), HasSubstr("position 64 is beyond"));
}

// Rotary positions tell distances only, so a text may start anywhere; far out the angles must still
// be exact, and the tables must have grown.
TEST_F(WeightsTest, RotaryPositionsAreRelative) {
  Open("llama_v4");
  spec_.max_positions = 100000;
  auto model = Model::Load(spec_, *weights_, {}, *backend_);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<int32_t> ids = {5, 3, 60, 0, 17};
  const Tensor tensor = backend_->Allocate(DType::kI32, {5});
  backend_->Upload(ids.data(), tensor);
  const auto logits = [&](int64_t position) {
    const auto hidden = (*model)->Forward({.T = 5, .position = position}, tensor);
    EXPECT_TRUE(hidden.ok()) << hidden.status();
    return ToHost<float>((*model)->Logits(*hidden), *backend_);
  };
  const std::vector<float> first = logits(0);
  for (const int64_t position : {1, 1020, 3000, 99995}) {
    EXPECT_LT(LargestDifference(logits(position), first), 5e-5f) << position;
  }
}

}  // namespace
}  // namespace cvxq

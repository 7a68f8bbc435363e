// A model folder whose linears are in all three forms computes what its decoded matrices compute,
// is inspected form by form, and is refused, with file and tensor, where it lies.
#include "pipeline/packed_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"
#include "pipeline/inspect.h"
#include "pipeline/model_files.h"
#include "quant/affine_format.h"
#include "quant/scaled_format.h"
#include "quant/tables.h"
#include "storage/safetensors.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

using testing::HasSubstr;
using testing::Not;

const std::string kDense = std::string(CVXQ_SOURCE_DIR) + "/tests/data/models/llama";

const TableSet& Tables() {
  static const auto* tables = new TableSet(LloydMaxTables(2.0).table);
  return *tables;
}

PackedMatrix Packed(int64_t M, int64_t N) {
  PackedMatrix matrix{.rows = M, .columns = N, .cluster_size = M};
  for (int64_t i = 0; i < M; ++i) matrix.members.push_back(static_cast<int32_t>(i));
  matrix.depth.assign(N, 4);
  matrix.depth[1] = 0;
  matrix.scale.assign(N, 0.0625f);
  matrix.scale[1] = 0;
  matrix.table = Tables();
  std::vector<uint8_t> codes(M * N);
  for (int64_t i = 0; i < M * N; ++i) codes[i] = i / M == 1 ? 0 : (i * 7 + i / 5) % 16;
  PackCodes(codes, matrix);
  return matrix;
}

// Half of the integers are 0, one does not fit a byte.
ScaledCodes Scaled(int64_t M, int64_t N) {
  ScaledCodes codes{.rows = M, .columns = N};
  for (int64_t i = 0; i < M * N; ++i) {
    codes.integers.push_back(static_cast<int16_t>(i % 2 == 0 ? 0 : (i * 5 + i / 9) % 7 - 3));
  }
  codes.integers[M * N / 2] = 300;
  codes.row_scale.assign(M, -18);
  codes.column_scale.assign(N, 1);
  codes.column_scale[3] = -2;
  AssignClasses(codes);
  return codes;
}

AffineMatrix Affine(int64_t M, int64_t N) {
  AffineMatrix matrix{.rows = M, .columns = N, .bits = 3, .group = 8};
  for (int64_t i = 0; i < M * N; ++i) matrix.codes.push_back((i * 5 + i / 11) % 8);
  for (int64_t g = 0; g < M * matrix.group_count(); ++g) {
    matrix.scale.push_back(0.03125f);
    matrix.zero.push_back(3 + g % 2);
  }
  return matrix;
}

class PackedWeightsTest : public testing::Test {
 protected:
  struct Stored {
    DType dtype;
    Shape shape;
    std::vector<uint8_t> bytes;
  };

  // The dense model with its linears replaced, each kind by another form.
  void SetUp() override {
    const auto opened = OpenModel(kDense);
    ASSERT_TRUE(opened.ok()) << opened.status();
    spec_ = opened->spec;
    parameters_ = opened->parameters();
    config_ = opened->checkpoint->config();
    config_["quantization_config"] = {{"quant_method", "cvxq"}, {"format_version", 1}};
    for (const std::string& name : opened->checkpoint->names()) {
      const HostTensor tensor = *opened->checkpoint->Get(name);
      const auto* begin = reinterpret_cast<const uint8_t*>(tensor.data);
      tensors_[name] = {tensor.dtype, tensor.shape, {begin, begin + tensor.bytes()}};
    }
    SymbolCounts counts;
    ForEachLinear([&](const std::string&, LinearForm form, int64_t M, int64_t N) {
      if (form == LinearForm::kScaled) counts.Add(Scaled(M, N));
    });
    const EntropyTables entropy = EntropyTables::Train(counts);
    const std::vector<float> flat = FlattenTables({Tables()});
    Stored& tables = tensors_["cvxq.tables"];
    tables = {DType::kF32, {1, 510}, std::vector<uint8_t>(4 * flat.size())};
    std::memcpy(tables.bytes.data(), flat.data(), tables.bytes.size());
    Put("cvxq.entropy", entropy.Serialize());
    ForEachLinear([&](const std::string& linear, LinearForm form, int64_t M, int64_t N) {
      tensors_.erase(linear + ".weight");
      switch (form) {
        case LinearForm::kPacked:
          return Put(linear + ".packed", SerializePackedMatrix(Packed(M, N), 4, 0));
        case LinearForm::kScaled:
          return Put(linear + ".scaled", SerializeScaledMatrix(Scaled(M, N), entropy));
        case LinearForm::kAffine:
          return Put(linear + ".affine", SerializeAffineMatrix(Affine(M, N)));
      }
    });
  }

  void ForEachLinear(
      const std::function<void(const std::string&, LinearForm, int64_t, int64_t)>& body) {
    for (int64_t block = 0; block < spec_.layers; ++block) {
      for (const LinearId id : spec_.linears()) {
        const auto form = static_cast<LinearForm>(static_cast<int>(id) % 3);
        body(spec_.LinearName(block, id), form, spec_.rows(id), spec_.columns(id));
      }
    }
  }

  // The first linear in a form: its name.
  std::string First(LinearForm form) {
    std::string first;
    ForEachLinear([&](const std::string& linear, LinearForm found, int64_t, int64_t) {
      if (first.empty() && found == form) first = linear;
    });
    return first;
  }

  void Put(const std::string& name, std::vector<uint8_t> bytes) {
    tensors_[name] = {DType::kU8, {static_cast<int64_t>(bytes.size())}, std::move(bytes)};
  }

  // Writes the model and gives its folder.
  std::string Write(const std::string& name = "model") {
    scratch_.Write(name + "/config.json", config_.dump());
    std::vector<TensorEntry> entries;
    for (const auto& [tensor, stored] : tensors_) {
      entries.push_back({tensor, stored.dtype, stored.shape});
    }
    const std::string folder = scratch_.path() + "/" + name;
    auto writer = SafetensorsWriter::Create(folder + "/model.safetensors", entries, {});
    EXPECT_TRUE(writer.ok()) << writer.status();
    for (const auto& [tensor, stored] : tensors_) {
      EXPECT_TRUE((*writer)->Append(std::as_bytes(std::span(stored.bytes))).ok());
    }
    EXPECT_TRUE((*writer)->Finish().ok());
    return folder;
  }

  // Opens the model and reads all its blocks, and gives its logits for a few tokens.
  StatusOr<std::vector<float>> Logits(const std::string& folder, DType compute = DType::kF32) {
    CVXQ_ASSIGN_OR_RETURN(const ModelFiles files, OpenModel(folder, 2));
    const std::unique_ptr<Backend> backend = MakeCpuBackend(2);
    CVXQ_ASSIGN_OR_RETURN(const auto model,
                          Model::Load(files.spec, *files.weights, {.compute = compute}, *backend));
    const std::vector<int32_t> ids = {5, 3, 60, 0, 17, 33, 8, 9, 2, 41};
    const Tensor tensor = backend->Allocate(DType::kI32, {10});
    backend->Upload(ids.data(), tensor);
    CVXQ_ASSIGN_OR_RETURN(const Tensor hidden, model->Forward({.T = 10}, tensor));
    const Tensor logits = model->Logits(hidden);
    std::vector<float> values(logits.shape.elements());
    backend->Download(logits, values.data());
    return values;
  }

  void ExpectRefused(const std::string& tensor, const std::string& what) {
    const std::string folder = Write();
    const Status status = Logits(folder).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << tensor << ": " << what;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(folder));
    EXPECT_THAT(message, HasSubstr(tensor));
    EXPECT_THAT(message, HasSubstr(what));
    EXPECT_THAT(message, Not(HasSubstr("\n")));
  }

  ScratchFolder scratch_;
  ArchSpec spec_;
  int64_t parameters_ = 0;
  nlohmann::json config_;
  std::map<std::string, Stored> tensors_;
};

TEST_F(PackedWeightsTest, AllFormsComputeAsTheirDecodedValues) {
  const std::string folder = Write();
  const auto files = OpenModel(folder);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->parameters(), parameters_);
  ForEachLinear([&](const std::string& linear, LinearForm form, int64_t M, int64_t N) {
    const auto codes = files->weights->Packed(linear);
    ASSERT_TRUE(codes.ok()) << codes.status();
    EXPECT_EQ((*codes)->index(), static_cast<size_t>(form)) << linear;
    const std::vector<float> w = Decode(**codes);
    Stored& dense = tensors_[linear + ".weight"];
    dense = {DType::kF32, {M, N}, std::vector<uint8_t>(4 * w.size())};
    std::memcpy(dense.bytes.data(), w.data(), dense.bytes.size());
  });
  std::erase_if(tensors_, [](const auto& entry) { return IsQuantizedTensor(entry.first); });
  config_.erase("quantization_config");
  const std::string decoded = Write("decoded");
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const auto got = Logits(folder, compute), want = Logits(decoded, compute);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_TRUE(want.ok()) << want.status();
    double most = 0, error = 0;
    for (size_t i = 0; i < want->size(); ++i) {
      most = std::max<double>(most, std::abs((*want)[i]));
      error = std::max<double>(error, std::abs((*got)[i] - (*want)[i]));
    }
    EXPECT_GT(most, 0.1);
    EXPECT_LT(error, (compute == DType::kF32 ? 1e-5 : 2e-2) * most);
  }
}

TEST_F(PackedWeightsTest, InspectTellsTheForms) {
  const auto report = Inspect(Write());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->parameters, parameters_);
  const nlohmann::ordered_json json = report->ToJson();
  ASSERT_EQ(json["linears"].size(), 14u);
  std::map<std::string, int> forms;
  for (const auto& linear : json["linears"]) {
    const std::string form = linear["form"];
    ++forms[form];
    const std::string name = linear["name"].get<std::string>() + "." + form;
    const double weights = linear["rows"].get<double>() * linear["columns"].get<double>();
    EXPECT_EQ(linear["bytes"], tensors_.at(name).bytes.size()) << name;
    EXPECT_DOUBLE_EQ(linear["bits_per_weight"], 8.0 * linear["bytes"].get<double>() / weights);
    EXPECT_EQ(linear.contains("depth_histogram"), form == "packed");
    EXPECT_EQ(linear.contains("width"), form == "affine");
    if (form == "scaled") {
      EXPECT_NEAR(linear["zero_fraction"], 0.5 + 0.5 / 7, 0.03) << name;
    }
    if (form == "affine") {
      EXPECT_EQ(linear["width"], 3);
      EXPECT_EQ(linear["group"], 8);
      EXPECT_EQ(linear["kept_columns"], 0);
      EXPECT_NEAR(linear["nominal_bits_per_weight"], 3, 0.01);
    }
  }
  EXPECT_EQ(forms, (std::map<std::string, int>{{"packed", 6}, {"scaled", 4}, {"affine", 4}}));
  const std::string text = report->ToText();
  EXPECT_THAT(text, HasSubstr("6 linears in the packed form"));
  EXPECT_THAT(text, HasSubstr("weights by bit depth"));
  EXPECT_THAT(text, HasSubstr("4 linears in the scaled form, 5"));
  EXPECT_THAT(text, HasSubstr("4 linears in the affine form"));
  EXPECT_THAT(text, HasSubstr("; 3 bits, groups of 8\n"));
}

TEST_F(PackedWeightsTest, OtherShapesAreRefused) {
  const auto original = tensors_;
  const std::string packed = First(LinearForm::kPacked), scaled = First(LinearForm::kScaled),
                    affine = First(LinearForm::kAffine);
  Put(packed + ".packed", SerializePackedMatrix(Packed(48, 24), 4, 0));
  ExpectRefused(packed + ".packed", "is a matrix [48, 24], config.json asks for ");
  tensors_ = original;
  Put(affine + ".affine", SerializeAffineMatrix(Affine(24, 1024)));
  ExpectRefused(affine + ".affine", "is a matrix [24, 1024], config.json asks for ");
  tensors_ = original;
  SymbolCounts counts;
  counts.Add(Scaled(100, 24));
  const EntropyTables entropy = EntropyTables::Train(counts);
  Put("cvxq.entropy", entropy.Serialize());
  ForEachLinear([&](const std::string& linear, LinearForm form, int64_t M, int64_t N) {
    if (form != LinearForm::kScaled) return;
    Put(linear + ".scaled", SerializeScaledMatrix(Scaled(linear == scaled ? 100 : M, N), entropy));
  });
  ExpectRefused(scaled + ".scaled", "100");
}

TEST_F(PackedWeightsTest, MissingOrDoubleTensorsAreRefused) {
  const auto original = tensors_;
  for (const char* shared : {"cvxq.tables", "cvxq.entropy"}) {
    tensors_ = original;
    tensors_.erase(shared);
    const Status status = OpenModel(Write()).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(shared));
  }
  tensors_ = original;
  const std::string linear = First(LinearForm::kScaled);
  Put(linear + ".affine", {1, 2, 3});
  ExpectRefused(linear + ".affine", "there are both " + linear + ".scaled and ");
}

TEST_F(PackedWeightsTest, BrokenBytesAreRefusedByName) {
  const auto original = tensors_;
  std::vector<std::string> names = {"cvxq.entropy"};
  for (const LinearForm form : {LinearForm::kPacked, LinearForm::kScaled, LinearForm::kAffine}) {
    names.push_back(First(form) + std::string(kFormSuffixes[static_cast<size_t>(form)]));
  }
  for (const std::string& name : names) {
    tensors_ = original;
    tensors_[name].bytes.back() ^= 1;
    ExpectRefused(name, "");
    tensors_ = original;
    std::vector<uint8_t> bytes = tensors_[name].bytes;
    bytes.pop_back();
    Put(name, bytes);
    ExpectRefused(name, "");
    Put(name, {});
    ExpectRefused(name, "");
  }
}

}  // namespace
}  // namespace cvxq

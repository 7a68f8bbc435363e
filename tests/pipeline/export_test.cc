// Exports end to end on the bundled model: sizes, choice, what is shipped, and bad input.
#include "pipeline/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <tuple>

#include "pipeline/model_files.h"
#include "storage/files.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

using testing::HasSubstr;

std::string Example(const std::string& name) {
  return std::string(CVXQ_SOURCE_DIR) + "/examples/models/" + name;
}

class ExportTest : public testing::Test {
 protected:
  // Few short sequences: enough to tell types apart.
  ExportOptions Options(ExportFormatKind format = ExportFormatKind::kGguf) const {
    ExportOptions options;
    options.model = Example("kjv-llama-1m");
    options.output = scratch_.path() + "/out";
    options.format = format;
    options.calibration.samples = 24;
    options.calibration.seq_len = 64;
    options.check_samples = 8;
    options.threads = 2;
    return options;
  }
  StatusOr<ExportReport> Run(const ExportOptions& options) {
    Progress progress(ProgressMode::kQuiet);
    return Export(options, progress);
  }
  static int64_t FolderBytes(const std::string& folder) {
    int64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().filename() == kExportReportName) continue;
      bytes += static_cast<int64_t>(entry.file_size());
    }
    return bytes;
  }

  ScratchFolder scratch_;
};

class ExportSizeTest : public ExportTest, public testing::WithParamInterface<ExportFormatKind> {};

TEST_P(ExportSizeTest, MeetsTheSizeAndReadsBack) {
  ExportOptions options = Options(GetParam());
  options.size = 1;
  const Status too_small = Run(options).status();
  EXPECT_TRUE(absl::IsInvalidArgument(too_small));
  EXPECT_THAT(std::string(too_small.message()), HasSubstr("the least is"));

  options.size.reset();
  options.bits = 5;
  const StatusOr<ExportReport> of_bits = Run(options);
  ASSERT_TRUE(of_bits.ok()) << of_bits.status();
  EXPECT_LE(of_bits->bits_per_weight, 5);
  EXPECT_GT(of_bits->bits_per_weight, 4.5);
  EXPECT_EQ(of_bits->file_bytes, FolderBytes(options.output));

  options.bits.reset();
  options.size = of_bits->file_bytes;
  options.output += "-size";
  const StatusOr<ExportReport> report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->file_bytes, FolderBytes(options.output));
  EXPECT_LE(report->file_bytes, *options.size);
  EXPECT_GT(report->file_bytes, *options.size * 0.995);
  // Read back from the bytes, and close to the original.
  ASSERT_TRUE(report->kl.has_value());
  EXPECT_GT(*report->kl, 0);
  EXPECT_LT(*report->kl, 0.01);
  const StatusOr<ModelFiles> files = OpenModel(options.output);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_TRUE(files->packed);
}

INSTANTIATE_TEST_SUITE_P(Formats, ExportSizeTest,
                         testing::Values(ExportFormatKind::kGguf,
                                         ExportFormatKind::kCompressedTensors));

// Sizes between the smallest and the largest file: never above, and what is left is no step.
TEST_P(ExportSizeTest, FillsTheSize) {
  ExportOptions options = Options(GetParam());
  options.calibration.samples = 4;
  options.check_samples = 0;
  const bool gguf = GetParam() == ExportFormatKind::kGguf;
  options.format_options.menu = gguf ? std::vector<std::string>{"q4_0", "q5_0", "q8_0"}
                                     : std::vector<std::string>{"int3", "int4", "int8"};
  const auto file_of = [&](const std::string& type) {
    ExportOptions uniform = options;
    uniform.uniform = type;
    uniform.nearest = true;
    uniform.output += type;
    const StatusOr<ExportReport> report = Run(uniform);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? report->file_bytes : 0;
  };
  const int64_t least = file_of(options.format_options.menu.front());
  const int64_t most = file_of(options.format_options.menu.back());
  for (const int64_t size : {least, least + 1000, (3 * least + most) / 4, most - 1}) {
    options.size = size;
    options.output = scratch_.path() + "/" + std::to_string(size);
    const StatusOr<ExportReport> report = Run(options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->file_bytes, FolderBytes(options.output));
    EXPECT_LE(report->file_bytes, size);
    EXPECT_GT(report->least_step_bytes, 0);
    EXPECT_LT(size - report->file_bytes, report->least_step_bytes) << size;
  }
}

TEST_F(ExportTest, BetterThanOneTypeEverywhere) {
  ExportOptions options = Options();
  options.uniform = "q4_0";
  options.nearest = true;
  const StatusOr<ExportReport> uniform = Run(options);
  ASSERT_TRUE(uniform.ok()) << uniform.status();
  for (const ExportReport::Matrix& matrix : uniform->matrices) EXPECT_EQ(matrix.type, "q4_0");

  options = Options();
  options.output += "-chosen";
  options.size = uniform->file_bytes;
  const StatusOr<ExportReport> chosen = Run(options);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_LE(chosen->file_bytes, uniform->file_bytes);
  EXPECT_LT(*chosen->kl, 0.6 * *uniform->kl);
  EXPECT_FALSE(chosen->fell_back);
  EXPECT_TRUE(chosen->uniform_kl.has_value());
  EXPECT_LT(*chosen->kl, *chosen->uniform_kl);
}

TEST_F(ExportTest, AChoiceThatMeasuresWorseIsNotShipped) {
  ExportOptions options = Options();
  options.format_options.menu = {"q4_0", "q8_0", "q5_0"};
  options.bits = 5.5;
  // As if few bits did no harm to the first blocks, and all the more to the head.
  options.believe = [](size_t index, const WeightType& type, double measured) {
    return index < 20 ? 0 : measured * 1e6 / static_cast<double>(type.Bytes(1, 32));
  };
  const StatusOr<ExportReport> report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->fell_back);
  EXPECT_EQ(report->uniform, "q5_0");
  EXPECT_LT(*report->kl, *report->uniform_kl);
  for (const ExportReport::Matrix& matrix : report->matrices) EXPECT_EQ(matrix.type, "q5_0");
  EXPECT_THAT(report->notes, testing::Contains(HasSubstr("measured better")));
  EXPECT_EQ(report->file_bytes, FolderBytes(options.output));
  for (const auto& entry : fs::directory_iterator(options.output)) {
    EXPECT_TRUE(entry.is_regular_file()) << entry.path();
  }
}

TEST_F(ExportTest, TheSameForAnyNumberOfThreads) {
  ExportOptions options = Options();
  options.bits = 4.6;
  options.check_samples = 0;
  std::vector<std::map<std::string, std::string>> digests;
  for (const int threads : {1, 3}) {
    options.threads = threads;
    options.output = scratch_.path() + "/out" + std::to_string(threads);
    const StatusOr<ExportReport> report = Run(options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_FALSE(report->kl.has_value());
    digests.push_back(report->sha256);
  }
  EXPECT_EQ(digests[0], digests[1]);
}

TEST_F(ExportTest, TheReportIsBesideTheFiles) {
  ExportOptions options = Options(ExportFormatKind::kCompressedTensors);
  options.bits = 4.5;
  const StatusOr<ExportReport> report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status();
  const StatusOr<std::string> text = ReadFile(options.output + "/" + kExportReportName);
  ASSERT_TRUE(text.ok()) << text.status();
  const nlohmann::json json = nlohmann::json::parse(*text);
  EXPECT_EQ(json["format"], "compressed-tensors");
  EXPECT_EQ(json["file_bytes"], report->file_bytes);
  double sum = 0;
  for (const auto& matrix : json["matrices"]) sum += matrix["measured_distortion"].get<double>();
  EXPECT_NEAR(sum, report->measured_distortion, 1e-9 * sum);
  // What was foreseen on rows is what came of all.
  EXPECT_NEAR(report->measured_distortion / report->predicted_distortion, 1, 0.1);
}

// Some rows stand for all of a large matrix: of tables, and of linears with several blocks of rows
// that feed one another, which a small memory makes.
TEST_F(ExportTest, WhatIsForeseenOnSomeRowsComesOfAll) {
  ExportOptions options = Options();
  options.bits = 4.5;
  options.check_samples = 0;
  options.memory = 1;
  options.measured_rows = 130;
  options.format_options.menu = {"q4_0"};
  const StatusOr<ExportReport> report = Run(options);
  ASSERT_TRUE(report.ok()) << report.status();
  int tables = 0;
  for (const ExportReport::Matrix& matrix : report->matrices) {
    EXPECT_NEAR(matrix.measured_distortion / matrix.predicted_distortion, 1, 0.15) << matrix.name;
    tables += matrix.rows == 1024 ? 1 : 0;
  }
  EXPECT_EQ(tables, 2);
}

TEST_F(ExportTest, BadInput) {
  const auto expect = [&](const ExportOptions& options, absl::StatusCode code,
                          const std::string& message) {
    const Status status = Run(options).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_FALSE(fs::exists(options.output));
  };
  ExportOptions options = Options();
  expect(options, absl::StatusCode::kInvalidArgument, "one of --bits, --size and --uniform");
  options.bits = 4;
  options.size = 1000000;
  expect(options, absl::StatusCode::kInvalidArgument, "one of --bits, --size and --uniform");
  options.size.reset();
  options.bits = 0;
  expect(options, absl::StatusCode::kInvalidArgument, "--bits 0 is out of range");
  options.bits = 4;
  options.nearest = true;
  expect(options, absl::StatusCode::kInvalidArgument, "--nearest is for --uniform");
  options = Options();
  options.uniform = "q9_z";
  expect(options, absl::StatusCode::kInvalidArgument, "q9_z");
  options = Options();
  options.bits = 4;
  options.format_options.menu = {"q9_z"};
  expect(options, absl::StatusCode::kInvalidArgument, "q9_z");
  options = Options();
  options.bits = 4;
  options.model = Example("kjv-opt-1m");
  expect(options, absl::StatusCode::kUnimplemented, "compressed-tensors");
  options = Options();
  options.bits = 4;
  options.model = scratch_.path() + "/none";
  expect(options, absl::StatusCode::kNotFound, "none");
}

// Rows of 128 and 352 columns have no blocks of 256, nor all of them groups of 128.
TEST_F(ExportTest, OneTypeThatFitsNowhereHasItsSubstitutes) {
  for (const auto& [format, uniform, substitute] :
       {std::tuple{ExportFormatKind::kGguf, "q4_k", "q5_0"},
        {ExportFormatKind::kCompressedTensors, "int4", "int4_channel"}}) {
    ExportOptions options = Options(format);
    options.uniform = uniform;
    options.format_options.group = -1;
    options.nearest = true;
    options.check_samples = 0;
    options.output = scratch_.path() + "/" + uniform;
    const StatusOr<ExportReport> report = Run(options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->matrices[0].type, substitute);
    EXPECT_EQ(report->matrices[0].fallback.empty(), format != ExportFormatKind::kGguf);
  }
}

TEST_F(ExportTest, AnExportReplacesOnlyAnExport) {
  ExportOptions options = Options(ExportFormatKind::kCompressedTensors);
  options.uniform = "int4";
  options.nearest = true;
  options.check_samples = 0;
  ASSERT_TRUE(Run(options).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Run(options).status()));
  options.overwrite = true;
  EXPECT_TRUE(Run(options).ok());
  options.output = scratch_.path() + "/mine";
  fs::create_directory(options.output);
  ASSERT_TRUE(WriteFile(options.output + "/thesis.txt", "all of it").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Run(options).status()));
  EXPECT_TRUE(fs::exists(options.output + "/thesis.txt"));
}

}  // namespace
}  // namespace cvxq
